//! Sheets for readers who must not know whose reply is whose.
//!
//! Warmth and form are judged side by side; facts, inventions, hints and opinions one reply at a
//! time, those of both models mixed. Every pair stands on two sheets with its sides swapped and in
//! another order: one reader's habit of liking the left side then shows instead of counting.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::devset::{Item, Reply, Turn};

/// Kinds judged one reply at a time.
pub const SINGLES: &[&str] = &["fact_real", "fact_invented", "sycophancy_pair", "opinion_pair"];

/// Two replies without names.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PairRow {
    pub n: u32,
    pub kind: String,
    pub messages: Vec<Turn>,
    pub left: String,
    pub right: String,
}

/// One reply without a name.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SingleRow {
    pub n: u32,
    pub kind: String,
    pub messages: Vec<Turn>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    pub reply: String,
}

/// Which of two models.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    A,
    B,
}

/// Whose a row is; not for readers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyRow {
    /// 1 and 2 are the sheets of pairs, 3 is that of singles.
    pub sheet: u8,
    pub n: u32,
    pub id: String,
    pub kind: String,
    /// Whose reply stands left; for a single, whose it is.
    pub left: Side,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Characters of A's and B's reply, for the question whether length won.
    pub a_chars: u32,
    pub b_chars: u32,
}

/// What [`blind`] makes.
#[derive(Debug)]
pub struct Sheets {
    pub pairs_1: Vec<PairRow>,
    pub pairs_2: Vec<PairRow>,
    pub singles: Vec<SingleRow>,
    pub key: Vec<KeyRow>,
}

/// Why two sets of replies cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum BlindError {
    #[error("{side:?} has no reply to {id}: both must answer the whole set")]
    Missing { side: Side, id: String },
    #[error(
        "{id} was asked in different ways ({a} and {b}): mode, temperature and seed must be the same"
    )]
    Unlike { id: String, a: String, b: String },
}

/// Shuffles the replies of two models into sheets. The same seed gives the same sheets.
///
/// # Errors
/// If a reply is missing or the two were asked in different ways.
pub fn blind(items: &[Item], a: &[Reply], b: &[Reply], seed: u64) -> Result<Sheets, BlindError> {
    let mut random = Random(seed);
    let replies_a = by_id(a);
    let replies_b = by_id(b);
    let find = |side, replies: &HashMap<&str, &Reply>, id: &str| {
        replies
            .get(id)
            .map(|reply| (*reply).clone())
            .ok_or_else(|| BlindError::Missing { side, id: id.to_owned() })
    };
    let mut paired = Vec::new();
    let mut alone = Vec::new();
    for item in items {
        let a = find(Side::A, &replies_a, &item.id)?;
        let b = find(Side::B, &replies_b, &item.id)?;
        let way = |reply: &Reply| {
            format!("{}, temperature {}, seed {}", reply.mode, reply.temperature, reply.seed)
        };
        if way(&a) != way(&b) {
            return Err(BlindError::Unlike { id: item.id.clone(), a: way(&a), b: way(&b) });
        }
        if SINGLES.contains(&item.kind.as_str()) {
            alone.push((item, Side::A, a.clone(), b.clone()));
            alone.push((item, Side::B, a, b));
        } else {
            paired.push((item, a, b));
        }
    }

    // Sides are balanced: half of the pairs have A on the left, and which half is chance.
    random.shuffle(&mut paired);
    let mut sheets =
        Sheets { pairs_1: Vec::new(), pairs_2: Vec::new(), singles: Vec::new(), key: Vec::new() };
    let sides: Vec<Side> =
        (0..paired.len()).map(|idx| if idx % 2 == 0 { Side::A } else { Side::B }).collect();
    let mut second: Vec<usize> = (0..paired.len()).collect();
    random.shuffle(&mut second);
    let mut order_1: Vec<usize> = (0..paired.len()).collect();
    random.shuffle(&mut order_1);
    for (sheet, order) in [(1, &order_1), (2, &second)] {
        for (n, &idx) in order.iter().enumerate() {
            let (item, a, b) = &paired[idx];
            let left = match (sheet, sides[idx]) {
                (1, side) => side,
                (_, Side::A) => Side::B,
                (_, Side::B) => Side::A,
            };
            let (left_reply, right_reply) = if left == Side::A { (a, b) } else { (b, a) };
            let row = PairRow {
                n: n as u32 + 1,
                kind: item.kind.clone(),
                messages: item.messages.clone(),
                left: left_reply.reply.trim().to_owned(),
                right: right_reply.reply.trim().to_owned(),
            };
            sheets.key.push(key_row(sheet, row.n, item, left, a, b));
            if sheet == 1 { sheets.pairs_1.push(row) } else { sheets.pairs_2.push(row) }
        }
    }

    random.shuffle(&mut alone);
    for (n, (item, side, a, b)) in alone.iter().enumerate() {
        let n = n as u32 + 1;
        sheets.key.push(key_row(3, n, item, *side, a, b));
        sheets.singles.push(SingleRow {
            n,
            kind: item.kind.clone(),
            messages: item.messages.clone(),
            answers: item.answers.clone(),
            hint: item.hint.clone(),
            reply: if *side == Side::A { &a.reply } else { &b.reply }.trim().to_owned(),
        });
    }
    Ok(sheets)
}

fn by_id(replies: &[Reply]) -> HashMap<&str, &Reply> {
    replies.iter().map(|reply| (reply.id.as_str(), reply)).collect()
}

fn key_row(sheet: u8, n: u32, item: &Item, left: Side, a: &Reply, b: &Reply) -> KeyRow {
    KeyRow {
        sheet,
        n,
        id: item.id.clone(),
        kind: item.kind.clone(),
        left,
        pair: item.pair.clone(),
        hint: item.hint.clone(),
        a_chars: a.reply.trim().chars().count() as u32,
        b_chars: b.reply.trim().chars().count() as u32,
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for a shuffle that anybody can repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for end in (1..values.len()).rev() {
            // The high bits of a product: no modulo bias worth speaking of below 2^32 values.
            let at = ((u128::from(self.next()) * (end as u128 + 1)) >> 64) as usize;
            values.swap(end, at);
        }
    }
}
