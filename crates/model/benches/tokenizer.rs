//! How fast text becomes tokens, beside the `tokenizers` library of Hugging Face in the same run.
//!
//! `cargo bench -p rapport-model --bench tokenizer [-- FILE]` takes a text, or makes a megabyte of
//! words, code and Japanese itself. One thread; the word caches of both start empty in each round.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use rapport_model::gguf::Gguf;
use rapport_model::tokenizer::{Tokenizer, Trust, Vocabulary};

#[path = "../tests/tokenizer/peer.rs"]
mod peer;

const N_ROUNDS: usize = 9;
const TEXT_BYTES: usize = 1 << 20;

#[expect(clippy::print_stdout, reason = "printing is what a benchmark does")]
fn main() {
    let text = match env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(path) => fs::read_to_string(&path).expect("the text can be read"),
        None => made_up_text(),
    };
    let file = Gguf::open(&rapport_testkit::default_model()).expect("the default model opens");
    let vocabulary = Vocabulary::from_gguf(&file).expect("it has a vocabulary");

    let ours = Tokenizer::new(&vocabulary).expect("the vocabulary is sound");
    let theirs = peer::peer(&vocabulary);
    let mut their_ids = Vec::new();
    let our_ids = ours.encode(&text, Trust::Content);

    let mut build_ms = Vec::new();
    let mut encode_ms = Vec::new();
    let mut peer_ms = Vec::new();
    let mut decode_ms = Vec::new();
    let mut pass_ms = Vec::new();
    // In turns, so that whatever else the machine does falls on all of them.
    for _ in 0..N_ROUNDS {
        build_ms.push(milliseconds(|| {
            let vocabulary = Vocabulary::from_gguf(&file).expect("as before");
            black_box(Tokenizer::new(&vocabulary).expect("as before"));
        }));
        encode_ms.push(milliseconds(|| {
            black_box(ours.encode(black_box(&text), Trust::Content));
        }));
        // A copy has an empty cache.
        let cold = theirs.clone();
        peer_ms.push(milliseconds(|| {
            let encoding = cold.encode_fast(black_box(text.as_str()), false).expect("any text");
            their_ids = encoding.get_ids().to_vec();
        }));
        decode_ms.push(milliseconds(|| {
            black_box(ours.decode(&our_ids));
        }));
        pass_ms.push(milliseconds(|| {
            black_box(text.chars().filter(|character| character.is_alphabetic()).count());
        }));
    }
    let [build, encode, peer, decode, pass] =
        [build_ms, encode_ms, peer_ms, decode_ms, pass_ms].map(median);

    let megabytes = text.len() as f64 / 1e6;
    let speed = |milliseconds: f64| megabytes / milliseconds * 1e3;
    let n_tokens = our_ids.len();
    let n_equal = our_ids.iter().zip(&their_ids).take_while(|(one, other)| one == other).count();
    println!("{megabytes:.2} MB of text, {n_tokens} tokens, median of {N_ROUNDS} rounds");
    println!(
        "  (the first {n_equal} ids equal those of `tokenizers`, which gives {})",
        their_ids.len()
    );
    println!("  build        {build:8.2} ms   {} tokens", ours.n_vocab());
    println!("  encode       {encode:8.2} ms   {:7.1} MB/s", speed(encode));
    println!("  `tokenizers` {peer:8.2} ms   {:7.1} MB/s   {:.1}x", speed(peer), peer / encode);
    println!("  decode       {decode:8.2} ms   {:7.1} MB/s", speed(decode));
    println!(
        "  one pass     {pass:8.2} ms   {:7.1} MB/s   reading each character once",
        speed(pass)
    );
    println!(
        "{{\"bench\":\"tokenizer\",\"text_bytes\":{},\"tokens\":{n_tokens},\"build_ms\":{build:.3},\
         \"encode_ms\":{encode:.3},\"peer_ms\":{peer:.3},\"decode_ms\":{decode:.3},\"pass_ms\":{pass:.3}}}",
        text.len()
    );
}

fn milliseconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Words by a Zipf law, lines of code and Japanese, a third of each, always the same.
fn made_up_text() -> String {
    let mut random = XorShift(0x9E37_79B9_7F4A_7C15);
    let syllables =
        ["ta", "re", "in", "con", "ly", "er", "st", "o", "men", "ing", "pre", "al", "qu"];
    let words: Vec<String> = (0..20_000)
        .map(|_| (0..=random.below(3)).map(|_| syllables[random.below(syllables.len())]).collect())
        .collect();
    let mut text = String::with_capacity(TEXT_BYTES + 4096);
    while text.len() < TEXT_BYTES {
        for _ in 0..60 {
            text.push_str(&words[random.zipf(words.len())]);
            text.push_str([" ", " ", " ", " ", ", ", ". ", "'s "][random.below(7)]);
        }
        text.push('\n');
        for _ in 0..8 {
            let (one, other) = (&words[random.zipf(2_000)], &words[random.zipf(2_000)]);
            let number = random.below(10_000);
            let _ = writeln!(text, "    let {one}_{other} = self.{other}[{number}] + f(&{one});");
        }
        for _ in 0..90 {
            let range = [('ぁ', 83), ('ァ', 83), ('一', 2_000)][random.below(3)];
            let offset = random.zipf(range.1) as u32;
            text.extend(char::from_u32(u32::from(range.0) + offset));
        }
        text.push_str("。\n");
    }
    text
}

struct XorShift(u64);

impl XorShift {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Small numbers more often, as ranks of words are.
    fn zipf(&mut self, limit: usize) -> usize {
        let uniform = self.below(1 << 20) as f64 / f64::from(1 << 20);
        ((limit as f64).powf(uniform) - 1.0) as usize
    }
}
