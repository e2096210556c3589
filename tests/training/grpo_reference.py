"""One update of GRPO with visual certainty in plain torch and numpy, written from the formulas, for the golden test.

Nothing of csp_utils computes here but the perturbation of the images, which has tests of its own. Replies are passed
through the model one at a time, without padding.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

from csp_utils.vlcal.perturbation import perturb_row


@dataclasses.dataclass
class Reply:
    """A prescribed reply: its text in pieces, each tokenized by itself, the second one the description."""

    pieces: list[str]
    right: bool
    visual: float | None = None
    reasoned: float | None = None
    well_formed: bool = True
    described: bool = True
    ended: bool = True

    def tokens(self, tokenizer) -> list[int]:
        """The token ids; the pieces are not joined, so they are not the canonical tokens of the text."""
        ids = [i for piece in self.pieces for i in tokenizer.encode(piece)]
        return [*ids, tokenizer.eos_token_id] if self.ended else ids

    def description(self, tokenizer) -> np.ndarray:
        """Which of the tokens are the description."""
        first, second = (len(tokenizer.encode(piece)) for piece in self.pieces[:2])
        marked = np.zeros(len(self.tokens(tokenizer)), bool)
        marked[first : first + second * self.described] = True
        return marked


class Update:
    """The first update of a training.

    Attributes, one element a reply in the order of the update: logp, entropy, k3 and described (arrays over the reply's
    tokens), D_KL and H of the description (kl, h), labels, rewards (dict of arrays), base and advantages (over tokens),
    and for the whole update: loss and gradients (by parameter, clipped).
    """

    def __init__(self, folder: Path, p, prompts: dict, order: list[str]):
        self.p, self.folder = p, folder
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(folder / "vlm", dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "vlm")
        self.pixels = Qwen2VLImageProcessor.from_pretrained(folder / "vlm")
        self.cases = [(row_id, prompts[row_id][0], reply, number) for row_id in order
                      for number, reply in enumerate(prompts[row_id][3])]  # fmt: skip
        self._signals()
        self._rewards()
        self._advantages()
        self._loss()

    def logits(self, case: tuple, masked: bool = False) -> torch.Tensor:
        """The logits that predict the tokens of a reply, divided by the temperature: (n, V)."""
        row_id, problem, reply, number = case
        image = Image.open(self.folder / f"{row_id}.png").convert("RGB")
        if masked:
            image = perturb_row(image, self.p.settings().perturbation, self.p.seed, row_id,
                                f"update 0 reply {number} image 0")  # fmt: skip
        seen = self.pixels(image, return_tensors="pt")
        pads = "<|image_pad|>" * (int(seen["image_grid_thw"].prod()) // 4)
        text = problem.replace("<image>", f"<|vision_start|>{pads}<|vision_end|>")
        prompt = self.tokenizer.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
                                       f"{text}<|im_end|>\n<|im_start|>assistant\n")  # fmt: skip
        ids = torch.tensor([prompt + reply.tokens(self.tokenizer)])
        out = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).logits[0]
        return out[len(prompt) - 1 : -1] / self.p.temperature

    def _signals(self) -> None:
        self.logp, self.entropy, self.k3, self.described, self.kl, self.h = [], [], [], [], [], []
        for case in self.cases:
            ids = torch.tensor(case[2].tokens(self.tokenizer))[:, None]
            with torch.no_grad():
                p, q = (self.logits(case, masked).double().log_softmax(-1) for masked in (False, True))
            logp, logq = (x.gather(1, ids)[:, 0].numpy() for x in (p, q))
            entropy = -(p.exp() * p).sum(-1).numpy() if self.p.entropy == "full" else -logp
            ratio = np.clip(logp - logq, -20, 20)
            k3 = np.clip(np.exp(-ratio) + ratio - 1, 0, 10)
            kl = {"full": (p.exp() * (p - q)).sum(-1).numpy(), "k3": k3,
                  "released": np.clip(np.exp(logp) * ratio, 0, 10)}[self.p.kl]  # fmt: skip
            described = case[2].description(self.tokenizer)
            self.logp.append(logp), self.entropy.append(entropy), self.k3.append(k3), self.described.append(described)
            self.kl.append(kl[described].mean() if described.any() else math.nan)
            self.h.append(entropy[described].mean() if described.any() else math.nan)

    def _rewards(self) -> None:
        kl, h = np.array(self.kl) + 1e-8, np.array(self.h) + 1e-8
        scores = {"both": np.log(kl) - np.log(h), "kl": np.log(kl), "entropy": -np.log(h)}.get(self.p.certainty)
        replies = [case[2] for case in self.cases]
        right = np.array([float(reply.right) for reply in replies])
        pairs = [(reply.visual, reply.reasoned) for reply in replies]
        overall = [math.nan if None in pair else 0.0 if 0 in pair else 2 * pair[0] * pair[1] / sum(pair)
                   for pair in pairs]  # fmt: skip
        brier = np.array([-1.0 if math.isnan(c) else -((c - y) ** 2) for c, y in zip(overall, right, strict=True)])
        # the format "none" asks for no confidences, so that a word in place of a number does not matter
        form = [float(reply.well_formed or self.p.reply_format == "none" and reply.described and reply.ended)
                for reply in replies]  # fmt: skip
        self.rewards = {"accuracy": right, "format": np.array(form)}
        if self.p.reply_format != "none":
            self.rewards["calibration"] = brier
        if scores is not None:
            known = scores[~np.isnan(scores)]
            z = (scores - known.mean()) / known.std()
            self.labels = 1 / (1 + np.exp(-z))
            if self.p.certainty != "both" and self.p.single_labels == "rank":
                self.labels = np.where(np.isnan(scores), np.nan, (rankdata(scores, nan_policy="omit") - 1)
                                       / (len(known) - 1))  # fmt: skip
            said = np.array([math.nan if reply.visual is None else reply.visual for reply in replies])
            self.rewards["visual"] = np.nan_to_num(-((said - self.labels) ** 2), nan=-1.0)

    def _advantages(self) -> None:
        weights = {"accuracy": 1.0, "calibration": 2.0, "format": 0.4, "visual": 0.4}
        total = sum(weights[name] * values for name, values in self.rewards.items())
        groups = total.reshape(-1, self.p.generations)
        std = groups.std(axis=1, ddof=1, keepdims=True)
        self.base = ((groups - groups.mean(axis=1, keepdims=True)) / (std + 1e-4)).ravel()
        self.advantages = [np.full(len(logp), a) for logp, a in zip(self.logp, self.base, strict=True)]
        for i, advantages in enumerate(self.advantages):
            x = np.log(self.k3[i] + 1e-8) - np.log(self.entropy[i] + 1e-8)
            s = 1 / (1 + np.exp(-(x - x.mean()) / x.std(ddof=1)))
            if self.base[i] < 0 and self.p.strength:
                advantages[self.described[i]] *= (1 + self.p.strength * (1 - 2 * s))[self.described[i]]
        if self.p.top_tokens < 1:
            self._choose()

    def _choose(self) -> None:
        """Keep the tokens of highest k3 of each reply, and divide by their share in the micro-batch."""
        for start in range(0, len(self.cases), self.p.batch_size):
            batch = range(start, start + self.p.batch_size)
            chosen = [np.isin(np.arange(len(k)), np.argsort(-k)[: math.ceil(self.p.top_tokens * len(k))])
                      for k in (self.k3[i] for i in batch)]  # fmt: skip
            share = np.concatenate(chosen).mean()
            for i, one in zip(batch, chosen, strict=True):
                self.advantages[i] = self.advantages[i] * one / share

    def _loss(self) -> None:
        tokens, n = sum(map(len, self.logp)), len(self.cases)
        self.loss = 0.0
        for case, advantages in zip(self.cases, self.advantages, strict=True):
            divided = tokens if self.p.loss_type == "dapo" else n * len(advantages)
            ids = torch.tensor(case[2].tokens(self.tokenizer))[:, None]
            logp = self.logits(case).log_softmax(-1).gather(1, ids)[:, 0]
            loss = -((logp - logp.detach()).exp() * torch.tensor(advantages, dtype=torch.float32)).sum() / divided
            loss.backward()
            self.loss += loss.item()
        found = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        self.norm = math.sqrt(sum(float(g.double().square().sum()) for g in found.values()))
        self.gradients = {name: g * min(1.0, 1 / self.norm) for name, g in found.items()}
