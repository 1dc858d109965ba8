#!/usr/bin/env python3
"""Reference values for the style measures, from implementations that share no code with ours.

    python style_measures.py --lexicons FOLDER --out ../../crates/persona/tests/fixtures/style_measures.json

Reading ease, words and sentences by textstat 0.7.3 (its syllables are pyphen 0.18.1's hyphenation points, so single
words differ from vowel groups). Style matching is written out here from Ireland and Pennebaker (2010), once over the word
lists of measures.rs (must be equal) and once over the eight categories that ConvoKit matches by regular expressions
(should rank pairs alike). Politeness, hedges: ConvoKit's lists of markers. Lists, emoji and the question at the end: counted
by other means than ours. FOLDER holds ConvoKit's `coord-function-word-patterns.txt` and `politeness_ngram_markers.json`
(MIT, commit 5dabba5); only numbers that follow from them are kept.
"""

import argparse
import itertools
import json
import re
import unicodedata
from pathlib import Path

import textstat

TEXTS = [
    "The cat sat on the mat. It was warm, and nobody minded.",
    "I don't really know what you mean by that, but I like it a lot.",
    "Furthermore, we require assistance regarding the allocation of resources, and we would appreciate a prompt reply.",
    "yeah we're gonna need some stuff for saturday lol. can you bring chairs?",
    "Thank you so much for yesterday! Could you please send me the pictures when you have a minute?",
    "Perhaps it might rain in the afternoon; I think the walk could probably wait until tomorrow.",
    "Three things to buy:\n- milk\n- eggs\n2. bread\nThat is all.",
    "well done 🎉 👩‍🚀 you have earned a rest",
    "My grandmother kept every letter. When I opened the box, the paper smelled of her kitchen, and I had to sit down.",
    "Institutional accountability necessitates comprehensive documentation. Without it, nobody can verify anything.",
    "Sorry, I was late again. The bus did not come, and then my phone had no battery. Would you mind if we moved it to five?",
    "Who would want all of this for themselves? None of them ever asked, and neither did I.",
]


def words_of(text):
    return re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.lower().replace("\u2019", "'"))


def matching(shares_one, shares_other):
    values = [1 - abs(a - b) / (a + b + 0.0001) for a, b in zip(shares_one, shares_other, strict=True)]
    return sum(values) / len(values)


def our_categories(source):
    block = re.search(r"FUNCTION_WORDS: \[&\[&str\]; 9\] = \[(.*?)\n\];", source, re.DOTALL).group(1)
    lists = re.findall(r"&\[(.*?)\]", block, re.DOTALL)
    return [set(re.findall(r'"([^"]+)"', inner)) for inner in lists]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lexicons", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    source = (Path(__file__).resolve().parents[2] / "crates/persona/src/measures.rs").read_text()
    ours = our_categories(source)
    convokit = [
        re.compile(line.split("\t")[1].strip())
        for line in (arguments.lexicons / "coord-function-word-patterns.txt").read_text().splitlines()
    ]
    markers = json.loads((arguments.lexicons / "politeness_ngram_markers.json").read_text())
    polite = markers["Gratitude"] + markers["Apology"] + markers["Greeting"] + markers["Subjunctive"] + ["please"]

    def count(text, phrases):
        joined = " " + " ".join(words_of(text)) + " "
        return sum(joined.count(f" {phrase} ") for phrase in phrases)

    texts = []
    for text in TEXTS:
        n = len(words_of(text))
        lines = [line for line in text.splitlines() if line.strip()]
        emoji = re.sub("\u200d.", "", text)
        texts.append(
            {
                "text": text,
                "n_words": n,
                "textstat_words": textstat.lexicon_count(text),
                "textstat_sentences": textstat.sentence_count(text),
                "textstat_reading_ease": round(textstat.flesch_reading_ease(text), 2),
                "convokit_polite": count(text, polite),
                "convokit_hedges": count(text, markers["Hedges"]),
                "list_density": sum(bool(re.match(r"\s*([-*+•]|\d+[.)])\s", line)) for line in lines) / len(lines),
                "n_emoji": sum(unicodedata.category(letter) == "So" for letter in emoji),
                "ends_with_question": text.rstrip()[-1] in "?？",
            }
        )
    pairs = []
    for one, other in itertools.combinations(range(len(TEXTS)), 2):
        listed = [words_of(TEXTS[at]) for at in (one, other)]
        by_ours = [[100 * sum(w in c for w in words) / len(words) for c in ours] for words in listed]
        by_convokit = [
            [100 * len(c.findall(TEXTS[at].lower())) / len(words) for c in convokit]
            for at, words in zip((one, other), listed, strict=True)
        ]
        pairs.append(
            {"one": one, "other": other, "same_lists": matching(*by_ours), "convokit": matching(*by_convokit)}
        )
    arguments.out.write_text(json.dumps({"texts": texts, "pairs": pairs}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
