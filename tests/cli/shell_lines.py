"""The shell lines of a document: those of its indented blocks, and code in the text that begins with
a program. Lines behind "$ " stand among their output, other blocks are read by how they begin."""
import re

PROGRAMS = (r"(?:build/tandem|tandem|make|mpiexec|srun|meson|ninja|kill|tests/run\.py|python3|pip|npm|cc|"
            r"apt-get|git|curl|docker|bash|sh)")
INLINE = re.compile(rf"`({PROGRAMS} [^`]+)`")
# A block of another language, by its first line.
LANGUAGES = {"#!/bin/bash": "script", "from ": "python", "apiVersion:": "yaml"}


class Line:
    """A command, and the lines of output that the document shows for it."""

    def __init__(self, number, command):
        self.number, self.command, self.output = number, command, []


def blocks(text):
    """(number of the first line, lines) of each indented block."""
    block, first = [], 0
    for number, line in enumerate(text.splitlines() + ["end"], 1):
        if line.startswith("    "):
            first = first if block else number
            block.append(line[4:])
        elif block and not line.strip():
            block.append("")
        else:
            while block and not block[-1]:
                block.pop()
            if block:
                yield first, block
            block = []


def language(block):
    for begin, name in LANGUAGES.items():
        if block[0].startswith(begin):
            return name
    return "session" if any(line.startswith("$ ") for line in block) else "shell"


def without_comment(line):
    return re.sub(r"\s{2,}# .*", "", line)


def lines_of_block(first, block):
    """A line ends in a backslash where it goes on; in a session the others are output."""
    session = language(block) == "session"
    found, at = [], 0
    while at < len(block):
        number, line = first + at, block[at]
        if session and not line.startswith("$ "):
            found[-1].output.append(without_comment(line))
            at += 1
            continue
        line = without_comment(line[2:] if session else line)
        while line.endswith("\\"):
            at += 1
            line = line[:-1].rstrip() + " " + without_comment(block[at].strip())
        at += 1
        if line.strip():
            found.append(Line(number, line.strip()))
    return found


def shell_lines(text):
    """In the order of the document."""
    found, inside = [], set()
    for first, block in blocks(text):
        inside.update(range(first, first + len(block)))
        if language(block) in ("session", "shell"):
            found += lines_of_block(first, block)
    prose = "\n".join("" if number in inside else line
                      for number, line in enumerate(text.splitlines(), 1))
    for match in INLINE.finditer(prose):
        command = " ".join(match[1].split())
        found.append(Line(prose.count("\n", 0, match.start()) + 1, command))
    return sorted(found, key=lambda line: line.number)


def other_blocks(text, name):
    return ["\n".join(block) + "\n" for _, block in blocks(text) if language(block) == name]
