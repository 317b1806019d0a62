"""The text tower: three of MiniLM's layers, taught what each text means among the pictures of the icons and classes.

A text's target is a distribution over the bank: all icons and, apart from them, all ImageNet classes. It is what the
text is known to mean, mixed with what the teacher, MiniLM, finds near by the bank's captions. The tower learns to have
the same distribution of cosines with the bank's vectors, which are pictures' vectors and stay as they are.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

LAYERS = (0, 2, 5)  # of MiniLM's six
WIDTH = 384
LENGTH = 40
PIECES = 9000
TEACHER_SCALE = 18.0  # what turns the teacher's cosines into its distribution
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Teacher:
    """MiniLM, whole: texts as unit vectors."""

    def __init__(self, folder: Path) -> None:
        """Load it from the folder of its package."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: Sequence[str], batch: int = 256) -> torch.Tensor:
        """Return unit vectors of shape (n, 384), float16: the mean over the tokens, as MiniLM was trained."""
        result = torch.empty(len(texts), WIDTH, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            for start in range(0, len(order), batch):
                places = order[start : start + batch]
                given = self.tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=LENGTH,
                    return_tensors="pt",
                )
                states = self.model(**given).last_hidden_state.float()
                mask = given["attention_mask"].unsqueeze(-1)
                result[places] = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).half()
        return result
