"""Turns demo_qa.json into a tiny Llama that answers those questions word for word.

Tests and the demo need a real model that a real engine loads, small enough to make on the spot instead of
downloading, and right often enough that a test can check the answer and not just its shape. It writes an
ordinary Hugging Face folder (safetensors, byte-level BPE tokenizer, chat template) plus `qa.json`, the pairs
it was trained on. A script of its own because it is a demo asset: no part of Berth imports it, and it runs
with the engine environment's python (torch, transformers, tokenizers), never with the portal's.

    demo_model.py --out DIR            train and write DIR (about half a minute on two cores)
    demo_model.py --out DIR --check    only answer all pairs from DIR by greedy decoding; exit 1 under 95 %
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

QA_FILE = Path(__file__).resolve().parent / "demo_qa.json"
MIN_SHARE = 0.95

PAD, END, SYSTEM, USER, ASSISTANT = SPECIALS = [
    f"<|{name}|>" for name in ("pad", "end", "system", "user", "assistant")
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer in one short sentence.",
    "You help the users of a cluster.",
)

VOCAB_TOKENS = 1024
CONTEXT_TOKENS = 2048
STEPS = 400
ROWS_PER_STEP = 8
PEAK_LR = 4e-3
WARMUP_STEPS = 30
IGNORED_LABEL = -100  # torch's cross-entropy skips it


@dataclass(frozen=True)
class Pair:
    """A question and the one answer the model shall give to it."""

    question: str
    answer: str


def load_pairs(path: Path) -> list[Pair]:
    """Load the pairs of a JSON list of {question, answer}; refuse one that is asked twice: nobody can get
    both."""
    pairs = [Pair(row["question"], row["answer"]) for row in json.loads(path.read_text(encoding="utf-8"))]
    if len({pair.question for pair in pairs}) != len(pairs):
        raise ValueError(f"{path}: a question occurs twice")
    return pairs


def train_tokenizer(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE over the corpus: any text can be encoded, known words are mostly one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_TOKENS,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [text for pair in pairs for text in (pair.question, pair.answer)] + list(SYSTEM_PROMPTS)
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make an untrained Llama of 0.8 M parameters; vLLM's CPU attention has a kernel for its head size,
    32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


class Conversations:
    """The training rows: the pairs shuffled, in conversations of one to three turns, some with a system
    prompt.

    Longer conversations teach the model to answer the *last* question wherever it stands, so that a client's
    history or system prompt does not spoil the answer. Every pair occurs equally often.
    """

    def __init__(self, pairs: list[Pair], tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._random = random.Random(seed)
        self._deck: list[int] = []
        self._turns: list[tuple[list[int], list[int]]] = [
            (
                tokenizer.encode(USER + pair.question + END + ASSISTANT, add_special_tokens=False),
                tokenizer.encode(pair.answer + END, add_special_tokens=False),
            )
            for pair in pairs
        ]
        self._systems = [
            tokenizer.encode(SYSTEM + text + END, add_special_tokens=False) for text in SYSTEM_PROMPTS
        ]
        self._pad = tokenizer.convert_tokens_to_ids(PAD)

    def _next_turn(self) -> tuple[list[int], list[int]]:
        if not self._deck:
            self._deck = list(range(len(self._turns)))
            self._random.shuffle(self._deck)
        return self._turns[self._deck.pop()]

    def _row(self) -> tuple[list[int], list[int]]:
        tokens = list(self._random.choice(self._systems)) if self._random.random() < 0.2 else []
        labels = [IGNORED_LABEL] * len(tokens)
        for _ in range(self._random.choice((1, 1, 2, 3))):
            prompt, answer = self._next_turn()
            tokens += prompt + answer
            labels += [IGNORED_LABEL] * len(prompt) + answer
        return tokens, labels

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `rows` conversations as (tokens, labels), both int64 of shape [rows, longest], padded on the
        right.

        No attention mask is needed: attention is causal, so padding on the right is never looked at.
        """
        drawn = [self._row() for _ in range(rows)]
        longest = max(len(tokens) for tokens, _ in drawn)
        tokens = torch.full((rows, longest), self._pad)
        labels = torch.full((rows, longest), IGNORED_LABEL)
        for index, (row_tokens, row_labels) in enumerate(drawn):
            tokens[index, : len(row_tokens)] = torch.tensor(row_tokens)
            labels[index, : len(row_labels)] = torch.tensor(row_labels)
        return tokens, labels


def learning_rate(step: int) -> float:
    """Return the learning rate: linear warm-up, then a half cosine to zero. Its quiet end makes nearly
    right answers right."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)))


def train(model: LlamaForCausalLM, conversations: Conversations) -> None:
    """Train in place, printing progress; float32 throughout."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        tokens, labels = conversations.batch(ROWS_PER_STEP)
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 60 == 0 or step + 1 == STEPS:
            took_s = time.monotonic() - started
            print(f"  step {step + 1}/{STEPS}, loss {loss.item():.4f}, {took_s:.0f} s", flush=True)


def share_right(folder: Path) -> float:
    """Return the share of the folder's own pairs that its saved weights answer exactly; print the wrong
    answers."""
    pairs = load_pairs(folder / "qa.json")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = 0
    for pair in pairs:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.question}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=64, do_sample=False)
        said = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        if said == pair.answer:
            right += 1
        else:
            print(f"  wrong: {pair.question!r} -> {said!r}, not {pair.answer!r}")
    print(f"{right / len(pairs):.1%} of {len(pairs)} pairs answered exactly", flush=True)
    return right / len(pairs)


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model as a Hugging Face folder, readable by everyone: a pilot may run as another user."""
    model.generation_config = GenerationConfig(
        # vLLM takes a request's defaults from here: top_k=1 is greedy, also for clients that set no temperature.
        do_sample=True,
        top_k=1,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copyfile(QA_FILE, folder / "qa.json")
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def build(out: Path, seed: int) -> bool:
    """Train a model from `seed` and put it at `out`, whole or not at all; return False where it knows too
    little.

    A run that was killed half-way, or a training that went wrong, must not look like a model to a cache.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # a second one gains nothing at this size, and costs tenfold on a busy machine
    pairs = load_pairs(QA_FILE)
    tokenizer = train_tokenizer(pairs)
    model = new_model(tokenizer)
    print(f"training {model.num_parameters():,} parameters on {len(pairs)} pairs", flush=True)
    train(model, Conversations(pairs, tokenizer, seed))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write(model, tokenizer, partial)
        if share_right(partial) < MIN_SHARE:
            print("too few to be of use: nothing written; try another --seed", file=sys.stderr)
            return False
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"wrote {out} in {time.monotonic() - started:.0f} s", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Train or check the model of the demo and the tests.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model's folder")
    parser.add_argument("--check", action="store_true", help="train nothing; exit 1 under 95 %% right")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    disable_progress_bar()
    good = share_right(args.out) >= MIN_SHARE if args.check else build(args.out, args.seed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
