"""BERT's uncased WordPiece tokenizer: text to token ids, and a padded batch with its mask.

Owns the vocabulary and the splitting rules. Must not know the model that reads the ids.
A vocabulary without the special tokens is a ValueError; any text gives ids, unknown pieces give [UNK].
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]

MAX_WORD_CHARACTERS = 100
# CJK ideographs, each a word of its own; the blocks of Unicode that BERT's tokenizer names.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Shape: both int64 (rows, length), C-contiguous; mask 1 for a token, 0 for padding."""

    input_ids: Ids
    attention_mask: Ids


class WordPiece:
    """An uncased BERT tokenizer over one vocabulary file, one piece a line.

    `max_tokens` 256: longer texts are cut, the two special tokens included, as the model's own configuration says.

    Source: the BERT paper's reference tokenizer. Equal to HuggingFace's fast one, except that a special token's name
    in the text is text here, and for characters that only one of the two libraries' Unicode tables knows.
    """

    def __init__(self, vocabulary: Path, max_tokens: int = 256) -> None:
        lines = vocabulary.read_text(encoding="utf-8").split("\n")
        self._ids = {piece: index for index, piece in enumerate(lines) if piece}
        self._max_tokens = max_tokens
        missing = [name for name in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if name not in self._ids]
        if missing:
            raise ValueError(f"`{vocabulary}` has no {', '.join(missing)}")

    def encode(self, text: str) -> list[int]:
        """The ids of one text, [CLS] first and [SEP] last."""
        ids = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._ids["[CLS]"], *ids[: self._max_tokens - 2], self._ids["[SEP]"]]

    def batch(self, texts: list[str]) -> TokenBatch:
        """The ids of several texts, padded to the longest."""
        rows = [self.encode(text) for text in texts]
        length = max(map(len, rows), default=0)
        input_ids = np.full((len(rows), length), self._ids["[PAD]"], np.int64)
        attention_mask = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            attention_mask[index, : len(row)] = 1
        return TokenBatch(input_ids, attention_mask)

    def _pieces(self, word: str) -> list[int]:
        """The longest piece of the vocabulary first, then of the rest; one [UNK] if any part has none."""
        if len(word) > MAX_WORD_CHARACTERS:
            return [self._ids["[UNK]"]]
        found = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self._ids:
                    break
            else:
                return [self._ids["[UNK]"]]
            found.append(self._ids[piece])
            start = end
        return found


def _words(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks, without accents and control characters."""
    spaced = "".join(map(_cleaned, text))
    decomposed = unicodedata.normalize("NFD", spaced)
    # Each character alone: lowering a whole word would turn a final sigma into another letter.
    plain = "".join(c.lower() for c in decomposed if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _is_punctuation(c) else c for c in plain).split()


def _cleaned(character: str) -> str:
    if character in "\t\n\r" or (character.isspace() and character > "\x20" and not "\x1c" <= character <= "\x1f"):
        return " "
    if character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    code = ord(character)
    if code >= 0x3400 and any(first <= code <= last for first, last in _IDEOGRAPHS):
        return f" {character} "
    return character


def _is_punctuation(character: str) -> bool:
    if character < "\x7f":
        return not character.isalnum() and character > "\x20"
    return unicodedata.category(character)[0] == "P"
