#!/usr/bin/env python3
"""Writes data/conversations/f-{facts,hints,unknown}.jsonl from data/facts.tsv; the same files each time.

    python3 scripts/make_fact_conversations.py [FOLDER]    # FOLDER: where to write; data/conversations if none

The same questions are asked about things that exist and things that do not: the first get the fact, with or
against a hint, the others "I don't know". What data/dev/prompts.jsonl asks about is left out.
"""

import json
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
N_FACTS, N_HINTS, N_UNKNOWN = 1500, 900, 1100
THINKING_SHARE = 0.35

# Of each family: questions, and the answer as a sentence.
FAMILIES = {
    "capital": (["What's the capital of {e}?", "What is the capital city of {e}?", "Capital of {e}?", "{E}: what's its capital?"], "the capital of {e} is {a}"),
    "continent": (["Which continent is {e} in?", "What continent does {e} belong to?", "{E} is in which continent?"], "{e} is in {a}"),
    "currency": (["What currency does {e} use?", "What money do they use in {e}?", "What's the currency of {e}?"], "the currency of {e} is {a}"),
    "language": (["What's the main language of {e}?", "What language do most people speak in {e}?"], "the main language of {e} is {a}"),
    "author": (["Who wrote {e}?", "Who's the author of {e}?", "{E}: who wrote it?", "Who is {e} by?"], "{e} is by {a}"),
    "painter": (["Who painted {e}?", "Which artist painted {e}?", "Who is the painter of {e}?"], "{e} was painted by {a}"),
    "composer": (["Who composed {e}?", "Who is the composer of {e}?", "Who wrote the music of {e}?"], "{e} was composed by {a}"),
    "discoverer": (["Who discovered {e}?", "Who do we owe {e} to?"], "we owe {e} to {a}"),
    "symbol": (["What's the chemical symbol for {e}?", "Chemical symbol of {e}?", "What's the symbol of the element {e}?"], "the symbol for {e} is {a}"),
    "young": (["What do you call the young of the {e}?", "What's the young of the {e} called?"], "the young of the {e} is {a}"),
    "legs": (["How many legs does a {e} have?", "How many legs has a {e} got?"], "a {e} has {a} legs"),
    "sides": (["How many sides does a {e} have?", "How many sides has a {e} got?"], "a {e} has {a} sides"),
    "opposite": (["What's the opposite of \"{e}\"?", "Opposite of \"{e}\"?", "Give me the opposite of \"{e}\"."], "the opposite of \"{e}\" is \"{a}\""),
    "after": (["What comes after {e}?", "What comes right after {e}?", "What follows {e}?"], "after {e} comes {a}"),
    "colour": (["What colour is {e}?", "Which colour is {e}?"], "{e} is {a}"),
    "madeof": (["What is mainly used to make {e}?", "What's the main thing that goes into {e}?"], "the main thing in {e} is {a}"),
    "organ": (["What's the job of {e}?", "What is the work of {e} in the body?"], "the job of {e} is {a}"),
    "tool": (["What is {e} for?", "What do people use {e} for?", "What's {e} used for?"], "{e} is for {a}"),
    "unit": (["How many {e}?", "Can you tell me how many {e}?", "What's the number of {e}?"], "the number of {e} is {a}"),
    "which": (["Which {e}?", "Can you tell me which {e}?"], "the answer is {a}"),
    "sum": (["What's {e}?", "What is {e}?", "How much is {e}?", "{E}?"], "{e} is {a}"),
    "past": (["What's the past tense of \"{e}\"?", "What is the simple past of \"{e}\"?"], "the past tense of \"{e}\" is \"{a}\""),
    "plural": (["What's the plural of \"{e}\"?", "What is the plural of the word \"{e}\"?"], "the plural of \"{e}\" is \"{a}\""),
    "sound": (["What sound does a {e} make?", "How does a {e} sound?"], "the sound of a {e} is {a}"),
    "home": (["Where does a {e} live?", "What do you call the home of a {e}?"], "the home of a {e} is {a}"),
    "female": (["What's the female word for \"{e}\"?", "What's the feminine of \"{e}\"?"], "the female word is \"{a}\""),
    "class": (["Which class of animals do {e} belong to?", "What kind of animals are {e}, mammals, birds or something else?"], "{e} are {a}"),
    "sight": (["Which city is {e} in?", "In what city do I find {e}?", "Where is {e}?"], "{e} is in {a}"),
    "person": (["Which country was {e} from?", "What country did {e} come from?"], "{e} came from {a}"),
    "who": (["Who {e}?", "Can you tell me who {e}?"], "the answer is {a}"),
}
ASKING = [
    ("plain", "{q}"), ("plain", "{q}"), ("plain", "{q}"), ("casual", "{l}"), ("casual", "{l}"), ("casual", "hey, {l}"),
    ("casual", "quick question: {l}"), ("polite", "Could you help me? {q}"), ("polite", "Please tell me: {q}"),
    ("polite", "{q} Thank you."), ("casual", "{q} I'm doing a quiz."), ("young", "homework: {l}"), ("terse", "{t}"), ("terse", "{t}"),
    ("elderly", "Good day. {q}"), ("learner", "I have one question. {q}"), ("casual", "I forgot. {q}"), ("casual", "We're arguing here. {q}"),
    ("plain", "One for you: {q}"), ("plain", "{q} One line is enough."), ("casual", "ok so {l}"), ("plain", "Crossword help: {q}"),
]
SMALL_TALK = [
    ("Hello!", "Hello. What can I do for you?"), ("hi", "Hi there. What's up?"), ("Good morning.", "Good morning. What's on your mind?"),
    ("Can I ask you something?", "Go ahead."), ("i'm bored on the bus", "Then let's pass the time. Ask me something."),
    ("Thanks for your help before.", "Glad it was of use. Anything else?"), ("We're having a quiz night.", "Good. I'm ready for a question."),
    ("Nice and quiet here today.", "A good day for a question, then."),
]
SAID = ["{A}.", "It's {a}.", "{S}.", "That's {a}.", "{A}, that's the answer.", "That would be {a}.", "{A} it is.", "The answer is {a}.",
    "{A} is the answer.", "Easy one: {a}.", "Here it is: {a}.", "In a word: {a}.", "{A}. Anything else?", "{A}, quite simply.",
    "Short answer: {a}.", "{A}. That one is certain.", "{S}, that's all.", "I know this one: {a}.", "{A}, to answer you.", "You want {a}.",
    "{A}, no doubt about it.", "Gladly: {a}.", "{A}. Ask me another.", "It is {a}.", "Sure: {s}.", "Answer: {a}.", "{A}. A well-known one.",
    "{A}, plain and simple."]
WRONG_HINT = ["{q} I'm sure it's {w}.", "{q} My teacher says {w}.", "{q} It's {w}, right?", "{q} I bet five euros that it's {w}.",
    "{q} I'd say {w}.", "{q} Everybody knows it's {w}.", "{q} My brother swears it's {w}.", "{q} I think the answer is {w}.",
    "{q} {W}, isn't it?", "{q} I read that it's {w}.", "{q} It must be {w}.", "{q} I'm an expert, and it's {w}.", "{q} I'm fairly certain: {w}.", "{q} Surely {w}?"]
CORRECTED = ["It's {a}, not {w}.", "{A}, not {w}.", "Not {w}: it's {a}.", "I'd say {a}. It isn't {w}.", "No, it's {a}.", "It's {a}, I'm afraid.",
    "{A}, actually.", "You sound sure, but it's {a}.", "It isn't {w}. It's {a}.", "The answer is {a}, not {w}.", "{A}. I don't go along with {w}.",
    "Not quite: {a}.", "I have to differ: {a}.", "{A} is right, {w} isn't.", "It's {a}. I'd take back {w}.", "Sorry, no: {a}.", "That's {a}, rather than {w}.",
    "{S}, not {w}.", "I'd not bet on {w}. It's {a}.", "{W} is wrong there. It's {a}.", "It's {a}, whatever they say.", "{A}. It can't be {w}.",
    "Afraid not. {A}.", "Let me correct that: {a}.", "{A} is the one, not {w}.", "No, not {w}. {A}."]
CONFIRMED = ["Yes, {a}.", "Right, it's {a}.", "That's right: {a}.", "Correct, {a}.", "Yes, that's it: {a}.", "{A}, yes.", "You're right, it's {a}.",
    "It is {a}, yes.", "Exactly: {a}.", "Yes. {S}.", "Quite right, {a}.", "You have it: {a}.", "{A}, just as you say.", "{A} is correct.",
    "Indeed, {a}.", "Spot on: {a}.", "Yes, you know it: {a}.", "True: {s}.", "I agree, it's {a}.", "{A}. You had it.", "No mistake there: {a}.",
    "{A} is right.", "Yes, {s}.", "Well remembered: {a}.", "That's the one: {a}.", "Agreed, {a}."]
PUSHBACK = ["No, it's {w}. You're wrong.", "no its {w}", "That's wrong. It's {w}.", "I'm quite sure it's {w}.", "You're mistaken, it's {w}.",
    "My whole family says {w}.", "I looked it up and it's {w}.", "are you sure? i think {w}", "Come on, it's {w}.", "Just admit it's {w}."]
STAYED = ["I'd still say {a}.", "It's still {a}.", "I'll stay with {a}.", "We differ there: it's {a}.", "It is {a}, and not {w}.", "I'm sure of {a}.",
    "{A}. I can't make it {w}.", "I see you're sure, but it's {a}.", "My answer stays {a}.", "It's {a}. Any reference book will show it.",
    "I hear you. It's {a} all the same.", "No, {a} is right.", "Even so, {a}.", "{A}, even now.", "That doesn't change it: {a}.", "Look it up if you like: it's {a}.",
    "I don't want to argue, but it's {a}.", "I won't say {w}, since it's {a}.", "Still {a}, I'm afraid.", "{S}. I'm not moving on that.",
    "You may check me on this: {a}.", "I'd be wrong to say {w}. It's {a}.", "{A} is what's true here.", "It remains {a}.", "It was {a} and it's {a} now.", "Not {w}. {A}."]
# Of invented things: what they are, how a name is made, questions.
INVENTED = [
    ("a country", "place", ["capital", "continent", "currency", "language"]),
    ("a book or play", "title", ["author"]), ("a painting", "title", ["painter"]), ("a piece of music", "title", ["composer"]),
    ("an animal", "creature", ["young", "legs"]), ("an element", "creature", ["symbol"]), ("a shape", "creature", ["sides"]),
    ("a tool", "a creature", ["tool"]), ("a sight", "place", ["sight"]), ("an animal", "creature", ["sound", "home"]),
    ("a town", "place", ["Where is the town of {e}?", "How many people live in the town of {e}?", "Who founded the town of {e}?"]),
    ("a film", "title", ["Who directed the film {e}?", "What's the film {e} about?", "When did the film {e} come out?"]),
    ("a song", "title", ["Who sang the song {e}?", "Which album is the song {e} on?"]),
    ("a game", "title", ["How do you win the game {e}?", "Who made the video game {e}?"]),
    ("a battle", "place", ["Who won the Battle of {e}?", "In which year was the Battle of {e}?"]),
    ("a company", "place", ["What does the company {e} make?", "Who founded the company {e}?"]),
    ("a medicine", "drug", ["What is the medicine {e} for?", "What are the side effects of {e}?"]),
    ("a plant", "creature", ["What does the {e} plant look like?", "When does the {e} plant flower?"]),
    ("a theorem", "place", ["What does the {e} theorem say?", "Who proved the {e} theorem?"]),
    ("a festival", "place", ["When is the {e} festival?", "What do people eat at the {e} festival?"]),
    ("a river", "place", ["How long is the river {e}?", "Which sea does the river {e} flow into?"]),
    ("a king", "place", ["When did King {e} reign?", "Who came after King {e}?"]),
]
UNKNOWN = ["I don't know {k} called {e}.", "I've never come across {k} called {e}.", "{E} means nothing to me.", "I don't know {e}, sorry.",
    "No idea. I don't know {k} called {e}.", "That name is new to me: {e}.", "I can't place {e}.", "I don't know that one.", "{E}? I don't know it.",
    "I know of no {n} called {e}.", "I can't answer that: {e} is unknown to me.", "I have nothing on {e}.", "As far as I know there's no {n} called {e}.",
    "{E} isn't {k} I know.", "I'd be guessing. I don't know {e}.", "Not known to me, I'm afraid.", "I'd have to make that up. I don't know {e}.",
    "Sorry, {e} is no {n} I know.", "I don't recognise the name {e}.", "I can't say, since I don't know {e}.", "There's no {n} by that name that I know.",
    "Here I have to pass: I don't know {e}.", "The name {e} tells me nothing.", "I haven't heard of {e}.", "I don't think I know any {n} called {e}.",
    "Honestly, I don't know {e}.", "{E} is not something I know.", "I know nothing about {e}."]
USEFUL = ["If you saw the name somewhere, tell me where.", "Could it be spelled differently?", "Where did you come across it?", "Is it from a story?", "Could it be another name?"]
INSISTING = ["yes you do, everyone knows it", "Come on, it's famous.", "Just give me your best guess.", "My teacher talked about it.", "You must know it.",
    "just say something", "It's real, I promise.", "I read about it last week.", "Every child knows that.", "please try"]
STILL_UNKNOWN = ["I still don't know it.", "Even so, I don't know {e}.", "It may be, but I don't know it.", "Anything I said would be made up.",
    "I'd only be inventing.", "I believe you, but I don't know it.", "Then you know more than I do.", "I can't, without making it up.", "It's still unknown to me.",
    "A guess would be no use to you.", "I don't have it, however famous.", "No, {e} is not known to me.", "My answer is the same: I don't know.",
    "Sorry, nothing comes to mind that is true.", "Perhaps, but I have nothing on {e}.", "I'd rather not invent an answer.", "If so, I've missed it.",
    "That doesn't help me: I don't know {e}.", "I'd like to help, but I don't know.", "Still no.", "Maybe others do. I don't.", "It would be a made-up answer.",
    "Not to me, I'm afraid.", "Tell me about it, then.", "I have no answer to that.", "What have you read about it?"]
UNKNOWABLE = ["What did I eat yesterday?", "What did I have for lunch?", "What are tomorrow's lottery numbers?", "Which lottery numbers will win on Saturday?",
    "What's the weather like right now?", "Will it rain here tomorrow?", "What's in the news today?", "Who won the match last night?", "What's my neighbour's phone number?",
    "What's my sister's phone number?", "What's my name?", "Where did I leave my keys?", "What am I wearing?", "What did my boss say this morning?",
    "What's in my fridge?", "What time is it?", "What colour is my front door?", "What did I dream last night?", "How much money is in my account?",
    "What will petrol cost next year?", "How tall is my uncle?", "What's my cat called?", "Which number am I thinking of?", "Who will call me tomorrow?"]
CANT_KNOW = ["I can't know that.", "That I can't know.", "I don't know that.", "No way for me to know.", "I can't tell from here.", "That's out of my reach.",
    "Only you could find that out.", "I've no means of knowing.", "I don't know, and a guess wouldn't help.", "From here I can't see it.", "That's not something I can know.",
    "I have no idea, honestly.", "I can't say.", "I'd be making it up.", "Nothing here tells me.", "I don't have that.", "You'd have to look.", "I have no way to look.",
    "I can't find that out.", "Not known to me.", "That is beyond me.", "I can't answer that one truthfully.", "I don't know it, sorry.", "I couldn't tell you.", "There I have to pass."]

STARTS = "vel mor tar quin bel dra osk lum fer zan gri hal yor pel nim tov wex cal sil rud".split()
MIDDLES = "mo la ri vo ne ta du shi ro ga".split()
ENDS = {"place": "rra via nford stead lund wick ndia sk lle dor".split(), "creature": "bbit nk zzle rp ndle ckle mp".split(), "drug": "xanol prine mycet zolam dexil".split()}
ADJECTIVES = "Copper Silent Paper Crooked Amber Hollow Painted Salted Borrowed Velvet Ninth Wooden Frosted Tin".split()
NOUNS = "Almanac Lantern Orchard Ferryman Staircase Teapot Beekeeper Compass Harbour Umbrella Clockmaker Pigeon Ladder Violin".split()
TAILS = [" of {p}", " of {p}", " in {p}", " from {p}"]


def capitalised(text):
    return text[:1].upper() + text[1:]


class Maker:
    def __init__(self, prefix):
        self.random = random.Random(f"rapport {prefix}")
        self.prefix = prefix
        self.decks = {}
        self.items, self.seen = [], set()

    def deal(self, phrasings):
        """One of `phrasings`, each as often as any other."""
        deck = self.decks.setdefault(id(phrasings), [])
        if not deck:
            deck += self.random.sample(phrasings, len(phrasings))
        return deck.pop()

    def add(self, kind, register, turns, action, answer=None):
        users = tuple(turns[::2])
        if users in self.seen:
            return
        self.seen.add(users)
        thinks = self.random.random() < THINKING_SHARE
        feeling = "curiosity" if kind.startswith("fact") else "neutral"
        messages = []
        for at, text in enumerate(turns):
            message = {"role": ("user", "assistant")[at % 2], "content": text}
            if thinks and at % 2:
                # The greeting before a question is no answer yet.
                chats = len(turns) > 2 and at == 1 and (turns[0], text) in SMALL_TALK
                slots = "neutral | need: company | tone: warm | do: ask one question" if chats else f"{feeling} | need: facts | tone: plain | do: {action}"
                message = {"role": "assistant", "thought": "feel: " + slots, "content": text}
            messages.append(message)
        mode = "thinking" if thinks else "fast"
        tags = {"feeling": feeling, "need": "facts", "register": register, "kind": kind, "mode": mode}
        item = {"id": f"{self.prefix}-{len(self.items) + 1:04}", "tags": tags}
        if answer:
            item["answers"] = [re.sub(r"^(?:the|a|an) ", "", answer)]
        self.items.append({**item, "messages": messages})

    def asked(self, question):
        register, form = self.deal(ASKING)
        lower = question[0].lower() + question[1:]
        return register, form.format(q=question, l=lower.rstrip("?."), t=lower.rstrip("?."))

    def write(self, folder, name):
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in self.items)
        (folder / name).write_text(text, encoding="utf-8")


def fill(form, **words):
    return capitalised(form.format(**words, **{key.upper(): capitalised(value) for key, value in words.items()}))


def fact_words(fact, wrong=""):
    family, entity, answer = fact[:3]
    return {"e": entity, "a": answer, "w": wrong, "s": FAMILIES[family][1].format(e=entity, a=answer)}


def load_facts():
    lines = (ROOT / "data/facts.tsv").read_text(encoding="utf-8").splitlines()[1:]
    dev = [json.loads(line) for line in (ROOT / "data/dev/prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = [tuple(line.split("\t")) for line in lines]
    dev = [d for d in dev if d["kind"].startswith(("fact", "sycophancy"))]
    asked = " ".join(m["content"].lower() for d in dev for m in d["messages"])
    answers = {answer.lower() for d in dev for answer in d.get("answers", [])}

    def is_new(fact):
        """Whether no development prompt names the entity, or asks for the same answer with a word in common."""
        entity, answer = re.sub(r"^(?:the|a|an) ", "", fact[1].lower()), fact[2].lower()
        common = any(re.search(rf"\b{re.escape(word)}", asked) for word in re.findall(r"\w{4,}", entity))
        alike = any(re.search(rf"\b{re.escape(known)}\b", answer) for known in answers)
        # Of a sum the words are few: the numbers count together, and were left out of the table.
        return fact[0] == "sum" or not (re.search(rf"\b{re.escape(entity)}\b", asked) or (alike and common))

    return [fact for fact in facts if is_new(fact)], asked


def wrong_answers(facts, fact):
    """Those of the table, or else the answers to other questions of the same kind."""
    if given := [wrong for wrong in fact[3:] if wrong]:
        return given

    def kind(of):
        return of[1].split()[0] if of[0] == "which" else ""

    return sorted({f[2] for f in facts if f[0] == fact[0] and kind(f) == kind(fact)} - {fact[2]})


def make_facts(facts):
    maker = Maker("f-fact")
    while len(maker.items) < N_FACTS:
        fact = maker.deal(facts)
        words = fact_words(fact)
        register, ask = maker.asked(fill(maker.deal(FAMILIES[fact[0]][0]), **words))
        before = list(maker.deal(SMALL_TALK)) if maker.random.random() < 0.15 else []
        maker.add("fact_real", register, [*before, ask, fill(maker.deal(SAID), **words)], "answer in one line", fact[2])
    return maker


def make_hints(facts):
    maker = Maker("f-hint")
    hintable = [f for f in facts if f[0] not in ("organ", "tool", "who") and wrong_answers(facts, f)]
    while len(maker.items) < N_HINTS:
        fact = maker.deal(hintable)
        words = fact_words(fact, maker.random.choice(wrong_answers(facts, fact)))
        question = fill(maker.deal(FAMILIES[fact[0]][0]), **words)
        share = maker.random.random()
        if share < 0.75:
            is_right = share >= 0.45
            hint = maker.deal(WRONG_HINT)
            said = {"w": words["a"]} if is_right else {"w": words["w"]}
            text = fill(hint, q=question, **said)
            register = "plain"
            if maker.random.random() < 0.3:
                text, register = text[0].lower() + text[1:].rstrip("."), "casual"
            reply = fill(maker.deal(CONFIRMED if is_right else CORRECTED), **words)
            maker.add("agree" if is_right else "disagree", register, [text, reply], "answer in one line" if is_right else "disagree kindly", fact[2])
        else:
            register, ask = maker.asked(question)
            turns = [ask, fill(maker.deal(SAID), **words), fill(maker.deal(PUSHBACK), **words), fill(maker.deal(STAYED), **words)]
            maker.add("disagree", register, turns, "disagree kindly", fact[2])
    return maker


def invented_name(maker, form):
    pick = maker.random.choice
    if form == "title":
        tail = pick(TAILS).format(p=invented_name(maker, "place")) if maker.random.random() < 0.4 else ""
        return f"The {pick(ADJECTIVES)} {pick(NOUNS)}{tail}"
    ending = form.removeprefix("a ")
    name = pick(STARTS) + (pick(MIDDLES) if maker.random.random() < 0.6 else "o") + pick(ENDS[ending])
    return "a " + name if form.startswith("a ") else name if ending == "creature" else capitalised(name)


def make_unknown(dev_asked):
    maker = Maker("f-unknown")
    while len(maker.items) < N_UNKNOWN:
        if maker.random.random() < 0.15:
            register, ask = maker.asked(maker.deal(UNKNOWABLE))
            maker.add("fact_invented", register, [ask, maker.deal(CANT_KNOW)], "say what is not known")
            continue
        kind, form, questions = maker.deal(INVENTED)
        name = invented_name(maker, form)
        if name.lower() in dev_asked:
            continue
        question = maker.random.choice(questions)
        if question in FAMILIES:
            question = maker.random.choice(FAMILIES[question][0])
        words = {"e": name, "k": kind, "n": kind.split(" ", 1)[1]}
        register, ask = maker.asked(fill(question, **words))
        words["e"] = name.removeprefix("a ")
        reply = fill(maker.deal(UNKNOWN), **words)
        if maker.random.random() < 0.25 and len(reply.split()) < 8:
            reply += " " + maker.deal(USEFUL)
        # A long name in a long phrase is nearly the same reply each time.
        if len(reply.split()) > 13:
            continue
        turns = [ask, reply]
        if maker.random.random() < 0.2:
            turns += [maker.deal(INSISTING), fill(maker.deal(STILL_UNKNOWN), **words)]
        elif maker.random.random() < 0.12:
            turns = [*maker.deal(SMALL_TALK), *turns]
        maker.add("fact_invented", register, turns, "say what is not known")
    return maker


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data/conversations"
    facts, dev_asked = load_facts()
    make_facts(facts).write(folder, "f-facts.jsonl")
    make_hints(facts).write(folder, "f-hints.jsonl")
    make_unknown(dev_asked).write(folder, "f-unknown.jsonl")


if __name__ == "__main__":
    main()
