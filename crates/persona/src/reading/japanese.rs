//! Japanese by short lists of words of our own: no data was found from which weights may be learned
//! and shipped. What is found is likely there; what is not found may be there too.
//!
//! A word counts unless its clause goes on with a negation (`悲しくない`). Needs, formality by
//! sentence endings and tone of replies are not read but for the plainest cases.

use super::labels::{FEELINGS, NEUTRAL_IDX};
use super::{Basis, Likely, Reading, Risk};

/// A feeling and stems that speak of it.
const FEELING_WORDS: &[(&str, &[&str])] = &[
    ("admiration", &["すごい", "すごく上手", "素晴らし", "すばらし", "尊敬", "さすが"]),
    ("amusement", &["笑った", "ウケる", "おもしろ", "面白", "爆笑", "www"]),
    ("anger", &["腹が立", "腹立", "むかつ", "ムカつ", "怒", "許せな", "ふざけるな", "頭にき"]),
    (
        "annoyance",
        &["うざ", "イライラ", "いらいら", "うんざり", "面倒くさ", "めんどくさ", "うるさ"],
    ),
    ("confusion", &["わからな", "分からな", "困った", "困って", "混乱", "迷って", "どうしよう"]),
    ("curiosity", &["気になる", "知りた", "なんで", "なぜ"]),
    ("desire", &["欲しい", "ほしい", "したいな", "行きたい", "食べたい"]),
    ("disappointment", &["がっかり", "残念", "期待はずれ", "期待外れ", "落ち込"]),
    ("disgust", &["気持ち悪", "きもい", "キモ", "吐き気", "最低"]),
    ("embarrassment", &["恥ずかし", "はずかし", "照れ"]),
    ("excitement", &["わくわく", "ワクワク", "楽しみ", "ドキドキ", "待ちきれな"]),
    ("fear", &["怖", "こわい", "恐ろし", "ぞっと"]),
    ("gratitude", &["ありがと", "有難", "感謝", "助かりま", "助かった"]),
    ("grief", &["亡くな", "亡くし", "他界", "お葬式", "葬儀"]),
    ("joy", &["嬉し", "うれし", "楽しい", "楽しかった", "幸せ", "やった！", "よかった"]),
    ("love", &["大好き", "愛して", "愛し", "好きです"]),
    ("nervousness", &["緊張", "不安", "心配", "そわそわ"]),
    ("optimism", &["きっと大丈夫", "うまくいく", "頑張ろう", "がんばろう"]),
    ("pride", &["誇らし", "誇りに", "自慢"]),
    ("relief", &["ほっと", "安心", "一安心"]),
    ("remorse", &["ごめん", "申し訳", "後悔", "すみません"]),
    (
        "sadness",
        &["悲し", "かなし", "寂し", "さみし", "さびし", "辛い", "つらい", "つらく", "泣い", "泣き"],
    ),
    ("surprise", &["びっくり", "驚", "まさか", "信じられな"]),
];
/// A stem that already ends in a negation, or is told apart from one below, is not negated by it.
const NEGATIONS: &[&str] =
    &["くない", "くなかった", "じゃない", "ではない", "でもない", "くありません", "ではありません"];
const DANGER: &[&str] = &[
    "死にたい",
    "しにたい",
    "自殺",
    "消えたい",
    "消えてしまいたい",
    "生きていたくない",
    "生きるのをやめ",
    "生きる意味",
    "死んだほうが",
    "死んだ方が",
    "終わりにしたい",
    "リストカット",
    "自傷",
    "飛び降り",
    "首を吊",
    "殺され",
    "殴られ",
    "虐待",
    "いなくなりたい",
    "薬を全部",
    "薬をたくさん飲",
];
const NEED_WORDS: &[(&str, &[&str])] = &[
    ("advice", &["どうすれば", "どうしたら", "アドバイス", "教えてください", "コツ"]),
    (
        "facts",
        &["何ですか", "なんですか", "いつですか", "どこですか", "誰ですか", "とは？", "首都"],
    ),
    ("vent", &["聞いて", "愚痴"]),
    ("create", &["書いて", "作って", "俳句", "物語"]),
    ("decide", &["どっちが", "どちらが", "べきか", "迷って"]),
];
const POLITE: &[&str] = &["です", "ます", "ません", "でした", "ました", "ください", "でしょう"];

/// Probabilities to show for what lists find; not calibrated.
const FOUND: f32 = 0.7;

/// Whether any of it is in kana. Kanji alone may be Chinese.
pub(super) fn is_japanese(text: &str) -> bool {
    text.chars().any(|letter| matches!(letter, '\u{3041}'..='\u{30ff}' | '\u{ff66}'..='\u{ff9d}'))
}

fn speaks_of(text: &str, stem: &str) -> bool {
    text.match_indices(stem).any(|(at, found)| {
        let after = &text[at + found.len()..];
        !NEGATIONS.iter().any(|negation| {
            after.starts_with(negation)
                || after.strip_prefix('い').is_some_and(|after| after.starts_with(negation))
        })
    })
}

fn first_of(text: &str, lists: &[(&'static str, &[&str])]) -> Vec<Likely> {
    let found = lists.iter().filter(|(_, stems)| stems.iter().any(|stem| speaks_of(text, stem)));
    found.map(|(label, _)| Likely { label, probability: FOUND }).collect()
}

pub(super) fn read(text: &str) -> Reading {
    let text = super::features::read_part(text);
    let mut feelings = first_of(text, FEELING_WORDS);
    if feelings.is_empty() {
        feelings.push(Likely { label: FEELINGS[NEUTRAL_IDX], probability: 0.5 });
    }
    let is_cue = DANGER.iter().any(|words| text.contains(words));
    let has_feeling = feelings[0].label != FEELINGS[NEUTRAL_IDX];
    let loud = 0.1 * text.matches(['!', '！']).count().min(3) as f32
        + 0.2
            * f32::from(u8::from(
                ["とても", "すごく", "本当に", "めちゃ"].iter().any(|w| text.contains(w)),
            ));
    let n_polite = POLITE.iter().filter(|ending| text.contains(**ending)).count();
    Reading {
        basis: Basis::Lexicon,
        intensity: (if has_feeling { 0.5 + loud } else { 0.1 + loud / 2.0 }).min(1.0),
        all_feelings: Vec::new(),
        feelings,
        needs: first_of(text, NEED_WORDS),
        risk: Risk { probability: if is_cue { FOUND } else { 0.05 }, is_cue },
        formality: Some(if n_polite > 0 { 0.8 } else { 0.2 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negated_word_is_not_found() {
        let feelings = |text| read(text).feelings[0].label;
        assert_eq!(feelings("とても悲しい"), "sadness");
        assert_eq!(feelings("全然悲しくない"), "neutral");
        assert_eq!(feelings("昨日は嬉しかったです！"), "joy");
        assert_eq!(feelings("駅は北にあります"), "neutral");
    }

    #[test]
    fn only_kana_is_japanese() {
        assert!(is_japanese("こんにちは") && is_japanese("メール") && !is_japanese("北京很美"));
    }

    #[test]
    fn every_feeling_is_one_of_the_labels() {
        for (label, _) in FEELING_WORDS {
            assert!(FEELINGS.contains(label), "{label}");
        }
        for (label, _) in NEED_WORDS {
            assert!(super::super::labels::NEEDS.contains(label), "{label}");
        }
    }
}
