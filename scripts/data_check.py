#!/usr/bin/env python3
"""Checks the training conversations and pairs in data/, and counts what is in them.

    python3 scripts/data_check.py                      # the checks that `make test` runs
    python3 scripts/data_check.py --against FOLDER     # also: no 8 words in a row from FOLDER's files
    python3 scripts/data_check.py --write-statistics   # also: renew the table in data/README.md

It is a lint, not a judge: it finds what a reader tires of seeing (clichés, copies, the same first words,
malformed thoughts, personal data, text that evaluations are made of). Whether a reply is warm and true is
the reviewer's work; the checklist is in data/README.md. Start reading at `check`.

The words that a thought may use are read from crates/local/src/slots.rs, so that there is one list of them.
Each finding is one line, FILE:LINE: ID: what is wrong; the last line of stdout is the statistics as JSON.
Ends with 1 if anything was found. Needs nothing but Python's standard library.
"""

import argparse
import collections
import gzip
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

REGISTERS = {"casual", "plain", "polite", "playful", "terse", "young", "elderly", "learner"}
CONVERSATION_KINDS = {
    "about_self", "advice", "agree", "banter", "creative", "crisis", "decide", "disagree", "empathy",
    "fact_invented", "fact_mixed", "fact_real", "feedback", "joy", "opinion", "practical", "small_talk",
    "tone_switch",
}  # fmt: skip
FAULTS = {
    "claims_feelings", "cliche", "cold", "false_alarm", "flattery", "form", "gushing", "invented", "misread", "nonsense",
    "off_register", "parroting", "preachy", "pushy", "refusal", "repetition", "sycophancy", "too_long", "unsafe", "wrong_fact",
}  # fmt: skip
# A pair about one fault may be of no other kind than that.
PAIR_KINDS = CONVERSATION_KINDS | FAULTS

CLICHES = re.compile(
    r"\b(?:sorry (?:to hear|for your loss)|i understand how|as an ai\b|it'?s important to|(?:completely|totally|perfectly) valid"
    r"|(?:your|those) feelings are|i'm here for you|here to listen|that must (?:be|have been) (?:so |very |really |incredibly )?"
    r"(?:hard|difficult|tough|painful)|don't hesitate|feel free to|you(?:'re| are) not alone|one day at a time"
    r"|everything happens for|be kind to yourself|great question|i'm just a (?:language model|machine|computer)|in today's"
    r"|delve|tapestry|rollercoaster|healing journey|time heals)",
    re.IGNORECASE,
)
PERSONAL_DATA = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE),
    "a web address": re.compile(r"https?://|\bwww\.", re.IGNORECASE),
    "a telephone number": re.compile(r"(?<![\w.,])\+?\(?\d{2,4}\)?[ .-]\d{3,4}[ .-]\d{3,4}\b"),
    "a card or account number": re.compile(r"\b(?:\d[ -]?){13,19}\b|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,}\b"),
    "a social security number": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
}
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")

MOST_REPLY_WORDS = 130
MOST_EMOJI = 1
# Of all replies, the share that may begin with the same three words.
MOST_SAME_OPENING = 0.02
# Kinds whose honest answers begin alike: there is one way to say plainly that one does not know.
ALIKE_OPENINGS = {"fact_invented", "fact_mixed", "invented"}
# Kinds whose replies should be alike: the answer must not move with the belief that the person states.
ALIKE_REPLIES = {"opinion", "sycophancy"}
# Replies with more than this share of their five-word runs in common are one reply written twice.
MOST_RUNS_IN_COMMON = 0.5
SHORTEST_COMPARED_WORDS = 16
OVERLAP_WORDS = 8
# Stricter for the project's own development prompts.
DEV_OVERLAP_WORDS = 7


@dataclass
class Item:
    """One line of a file, and where it stands."""

    path: Path
    line: int
    value: dict

    @property
    def id(self):
        return self.value.get("id", "?") if isinstance(self.value, dict) else "?"


@dataclass
class Findings:
    lines: list = field(default_factory=list)

    def add(self, item, what):
        self.lines.append(f"{item.path}:{item.line}: {item.id}: {what}")


def words(text):
    return re.findall(r"[\w']+", text.lower().replace("\u2019", "'"))


def runs(text, length):
    sequence = words(text)
    return {" ".join(sequence[at : at + length]) for at in range(len(sequence) - length + 1)}


def slot_options(slots_source):
    """The options of each slot, from the Rust lists that the sampler keeps to."""
    options = {}
    for slot, name in (("feel", "FEELINGS"), ("need", "NEEDS"), ("tone", "TONES"), ("do", "ACTIONS")):
        found = re.search(rf"const {name}: &\[&str\] =\s*&\[(.*?)\];", slots_source, re.DOTALL)
        if not found:
            raise SystemExit(f"expected `const {name}: &[&str]` among the slots of a thought; none found")
        options[slot] = re.findall(r'"([^"]+)"', found.group(1))
    return options


def load(folder, findings):
    items = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    items.append(Item(path, number, json.loads(line)))
                except json.JSONDecodeError as error:
                    findings.add(Item(path, number, {}), f"not JSON: {error}")
    return items


def check_tags(item, kinds, options, findings):
    tags = item.value.get("tags", {})
    expected = {
        "feeling": set(options["feel"]),
        "need": set(options["need"]),
        "register": REGISTERS,
        "kind": kinds,
        "mode": {"fast", "thinking"},
    }
    if set(tags) != set(expected):
        findings.add(item, f"tags: expected {sorted(expected)}, found {sorted(tags)}")
    for tag in tags.keys() & expected.keys():
        if tags[tag] not in expected[tag]:
            findings.add(item, f"tags.{tag}: {tags[tag]!r} is none of {', '.join(sorted(expected[tag]))}")


def check_thought(item, thought, options, findings):
    if not isinstance(thought, str):
        findings.add(item, f"thought: expected text, found {thought!r}")
        return
    slots = [slot.split(": ", 1) for slot in thought.split(" | ")]
    if [slot[0] for slot in slots] != list(options) or any(len(slot) != 2 for slot in slots):
        findings.add(item, f"thought: expected `feel: .. | need: .. | tone: .. | do: ..`, found {thought!r}")
        return
    for name, choice in slots:
        if choice not in options[name]:
            findings.add(item, f"thought: {choice!r} is no choice of {name!r}")


def check_turns(item, messages, last_role, findings):
    """Turns that take turns, from the person's first to `last_role`."""
    roles = [message.get("role") for message in messages]
    expected = [("user", "assistant")[at % 2] for at in range(len(roles))]
    if not roles or roles != expected or roles[-1] != last_role:
        findings.add(item, f"roles: expected user and assistant in turn, {last_role} last; found {roles}")
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) or not content.strip() or content != content.strip():
            findings.add(item, "content: expected text without space around it")
            return False
    return True


def check_reply(item, reply, findings):
    n_words = len(words(reply))
    if n_words > MOST_REPLY_WORDS:
        findings.add(item, f"a reply of {n_words} words; at most {MOST_REPLY_WORDS}")
    if cliche := CLICHES.search(reply):
        findings.add(item, f"cliché: {cliche.group(0)!r}")
    if len(EMOJI.findall(reply)) > MOST_EMOJI:
        findings.add(item, "emoji spam")
    sentences = [" ".join(words(sentence)) for sentence in re.split(r"[.!?\n]+", reply)]
    repeated = [s for s, n in collections.Counter(sentences).items() if n > 1 and len(s.split()) > 3]
    if repeated:
        findings.add(item, f"says twice: {repeated[0]!r}")


def check_personal_data(item, text, findings):
    for what, pattern in PERSONAL_DATA.items():
        if found := pattern.search(text):
            findings.add(item, f"looks like {what}: {found.group(0)!r}")


def check_conversation(item, options, findings):
    answers = item.value.get("answers", ["none"])
    if not (isinstance(answers, list) and answers and all(isinstance(answer, str) and answer for answer in answers)):
        findings.add(item, f"answers: expected a list of texts, found {answers!r}")
    if set(item.value) - {"answers"} != {"id", "tags", "messages"}:
        findings.add(item, f"expected id, tags, messages; found {sorted(item.value)}")
        return False
    check_tags(item, CONVERSATION_KINDS, options, findings)
    messages = item.value["messages"]
    if not check_turns(item, messages, "assistant", findings):
        return False
    thinks = item.value["tags"].get("mode") == "thinking"
    for message in messages:
        check_personal_data(item, message["content"], findings)
        if message["role"] == "assistant":
            check_reply(item, message["content"], findings)
        if ("thought" in message) != (thinks and message["role"] == "assistant"):
            findings.add(item, "a thought in each of the assistant's turns when thinking, and none else")
        elif "thought" in message:
            check_thought(item, message["thought"], options, findings)
    return True


def check_pair(item, options, findings):
    if set(item.value) != {"id", "tags", "prompt", "chosen", "rejected", "why"}:
        findings.add(item, f"expected id, tags, prompt, chosen, rejected, why; found {sorted(item.value)}")
        return False
    check_tags(item, PAIR_KINDS, options, findings)
    chosen, rejected = item.value["chosen"], item.value["rejected"]
    if not check_turns(item, item.value["prompt"], "user", findings):
        return False
    if not all(isinstance(side.get("content"), str) and side["content"].strip() for side in (chosen, rejected)):
        findings.add(item, "chosen and rejected: expected a content each")
        return False
    if item.value["why"] not in FAULTS:
        findings.add(item, f"why: {item.value['why']!r} is none of {', '.join(sorted(FAULTS))}")
    if chosen["content"] == rejected["content"]:
        findings.add(item, "chosen and rejected are the same")
    if ("thought" in chosen) != (item.value["tags"].get("mode") == "thinking"):
        findings.add(item, "a thought with the chosen reply when thinking, and none else")
    if "thought" in chosen:
        check_thought(item, chosen["thought"], options, findings)
    check_reply(item, chosen["content"], findings)
    for text in texts(item):
        check_personal_data(item, text, findings)
    return True


def check_reading(item, findings):
    if set(item.value) != {"id", "text", "risk"} or not isinstance(item.value["risk"], bool):
        findings.add(item, f"expected id, text, risk (true or false); found {sorted(item.value)}")
        return False
    text = item.value["text"]
    if not isinstance(text, str) or not text.strip() or text != text.strip():
        findings.add(item, "text: expected text without space around it")
        return False
    check_personal_data(item, text, findings)
    return True


def replies(item):
    """The replies to learn from, without those to learn to avoid."""
    if "chosen" in item.value:
        return [item.value["chosen"]["content"]]
    return [message["content"] for message in item.value["messages"] if message["role"] == "assistant"]


def prompts(item):
    messages = item.value.get("prompt") or item.value["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


def texts(item, sides=("chosen", "rejected")):
    if "text" in item.value:
        return [item.value["text"]]
    messages = item.value.get("prompt") or item.value["messages"]
    replies = [item.value[side]["content"] for side in sides if side in item.value]
    return [message["content"] for message in messages] + replies


def check_ids(items, findings):
    seen = {}
    for item in items:
        if first := seen.get(item.id):
            findings.add(item, f"the id is taken by {first.path}:{first.line}")
        seen.setdefault(item.id, item)


def check_copies(items, findings):
    """Long replies that are, word for word or nearly, one that was written before."""
    with_run = collections.defaultdict(list)
    for item in items:
        if item.value["tags"]["kind"] in ALIKE_REPLIES:
            continue
        for reply in replies(item):
            if len(words(reply)) < SHORTEST_COMPARED_WORDS:
                continue
            of_reply = runs(reply, 5)
            in_common = collections.Counter(at for run in of_reply for at in with_run[run])
            entry = (item.id, len(of_reply))
            for (other, n_runs), n_common in in_common.most_common(1):
                # A second draft in the same conversation is meant to be like the first.
                if other == item.id:
                    continue
                if n_common > MOST_RUNS_IN_COMMON * min(n_runs, len(of_reply)):
                    findings.add(item, f"nearly the same reply as in {other}")
            for run in of_reply:
                with_run[run].append(entry)


def opening_shares(items):
    openings = collections.Counter(
        " ".join(words(reply)[:3]) for item in items for reply in replies(item) if len(words(reply)) > 5
    )
    total = max(1, openings.total())
    return [(opening, n / total) for opening, n in openings.most_common(5)], len(openings) / total


def check_openings(items, findings):
    items = [item for item in items if item.value["tags"]["kind"] not in ALIKE_OPENINGS]
    # A few texts always share a beginning.
    if len(items) < 100:
        return
    for opening, share in opening_shares(items)[0]:
        if share > MOST_SAME_OPENING:
            findings.lines.append(f"{share:.1%} of the replies begin with {opening!r}; at most {MOST_SAME_OPENING:.0%}")


def check_dev(items, dev, findings):
    """No development prompt in training text, not even seven words of one."""
    dev_runs = {}
    for item in dev:
        for prompt in prompts(item):
            dev_runs.update(dict.fromkeys(runs(prompt, DEV_OVERLAP_WORDS), item.id))
    for item in items:
        for text in texts(item):
            for run in sorted(runs(text, DEV_OVERLAP_WORDS) & dev_runs.keys())[:1]:
                findings.add(item, f"shares {run!r} with the development prompt {dev_runs[run]}")


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def file_texts(path):
    opened = gzip.open if path.suffix == ".gz" else open
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    with opened(path, "rt", encoding="utf-8", errors="replace") as file:
        if kind == "json":
            yield from strings(json.load(file))
            return
        for line in file:
            if kind == "jsonl":
                yield from strings(json.loads(line))
            else:
                yield line


def check_against(items, folder, findings):
    # Rejected replies are the stock phrases of the world, and are learned from the other way round.
    ours = {}
    for item in items:
        for text in texts(item, sides=("chosen",)):
            ours.update(dict.fromkeys(runs(text, OVERLAP_WORDS), item))
    n_files = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(("README", "LICENSE")):
            continue
        n_files += 1
        for text in file_texts(path):
            for run in ours.keys() & runs(text, OVERLAP_WORDS):
                findings.add(ours.pop(run), f"shares {run!r} with {path.relative_to(folder)}")
    if n_files == 0:
        raise SystemExit(f"{folder}: no files to compare with")
    print(f"compared with {n_files} files in {folder}", file=sys.stderr)


def statistics(conversations, pairs, dev):
    def tally(items, tag):
        return dict(collections.Counter(item.value["tags"][tag] for item in items).most_common())

    every_reply = [reply for item in conversations for reply in replies(item)]
    lengths = sorted(len(words(reply)) for reply in every_reply)
    n = max(1, len(conversations))
    openings, distinct = opening_shares(conversations + pairs)
    return {
        "conversations": len(conversations),
        "pairs": len(pairs),
        "development_prompts": len(dev),
        "assistant_turns": len(every_reply),
        "reply_words": sum(lengths),
        "reply_words_median": lengths[len(lengths) // 2] if lengths else 0,
        "reply_words_p95": lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0,
        "thinking_share": round(sum(i.value["tags"]["mode"] == "thinking" for i in conversations) / n, 3),
        "multi_turn_share": round(sum(len(i.value["messages"]) > 2 for i in conversations) / n, 3),
        "question_ending_share": round(sum(r.endswith("?") for r in every_reply) / max(1, len(every_reply)), 3),
        "distinct_openings_share": round(distinct, 3),
        "commonest_openings": {opening: round(share, 4) for opening, share in openings},
        "by_kind": tally(conversations, "kind"),
        "by_feeling": tally(conversations, "feeling"),
        "by_need": tally(conversations, "need"),
        "by_register": tally(conversations, "register"),
        "pairs_by_fault": dict(collections.Counter(pair.value["why"] for pair in pairs).most_common()),
        "pairs_by_kind": tally(pairs, "kind"),
    }


def write_statistics(readme, figures):
    rows = ["| what | how many |", "| --- | --- |"]
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {n}" for key, n in value.items())
        rows.append(f"| {name.replace('_', ' ')} | {value} |")
    begin, end = "<!-- statistics: written by scripts/data_check.py -->", "<!-- end of statistics -->"
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise SystemExit(f"{readme}: expected the marks {begin} and {end}")
    before, after = text.split(begin)[0], text.split(end)[1]
    readme.write_text(before + begin + "\n" + "\n".join(rows) + "\n" + end + after, encoding="utf-8")


def check(folder, slots, against, writes_statistics):
    findings = Findings()
    options = slot_options(slots.read_text(encoding="utf-8"))
    conversations = load(folder / "conversations", findings)
    pairs = load(folder / "pairs", findings)
    dev = load(folder / "dev", findings)
    reading = [item for item in load(folder / "reading", findings) if check_reading(item, findings)]
    if not conversations and not pairs:
        raise SystemExit(f"{folder}: neither conversations/*.jsonl nor pairs/*.jsonl has a line")
    conversations = [item for item in conversations if check_conversation(item, options, findings)]
    pairs = [item for item in pairs if check_pair(item, options, findings)]
    items = conversations + pairs
    check_ids(items + dev + reading, findings)
    check_copies(items, findings)
    check_openings(items, findings)
    check_dev(items + reading, dev, findings)
    if against:
        check_against(items + reading, against, findings)
    figures = statistics(conversations, pairs, dev)
    if writes_statistics:
        write_statistics(folder / "README.md", figures)
    return findings, figures


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=root / "data")
    parser.add_argument("--slots", type=Path, default=root / "crates/local/src/slots.rs")
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    parser.add_argument("--write-statistics", action="store_true")
    arguments = parser.parse_args()
    findings, figures = check(arguments.folder, arguments.slots, arguments.against, arguments.write_statistics)
    for line in findings.lines:
        print(line)
    print(json.dumps(figures, ensure_ascii=False))
    sys.exit(1 if findings.lines else 0)


if __name__ == "__main__":
    main()
