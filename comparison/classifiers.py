"""
The trained judges of a task, one a training reward and another a gold reward: a logistic regression on words, and one
on the states of a language model that is not trained. Both give the logit of the good class or, learnt from pairs of
answers (Bradley–Terry), a reward of standard deviation 1.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F


WORD = re.compile(r"[a-z']+|[!?]")


def fit_logistic(features: torch.Tensor, labels: list[int], decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias that minimise the mean log-loss + decay·‖w‖², by L-BFGS from 0: no random numbers."""
    target = torch.tensor(labels, dtype=torch.float32)
    weight, bias = torch.zeros(features.shape[1], 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        logits = (features @ weight)[:, 0] + bias
        loss = F.binary_cross_entropy_with_logits(logits, target) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()[:, 0], bias.detach()


def fit_preferences(features: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Weights that minimise the mean of −log σ(the better answer's reward − the worse one's) + decay·‖w‖², then scaled so
    that rewards of the answers have a standard deviation of 1; bias 0. A reward that hardly tells answers apart has
    small logits, and methods read gaps in its units (PLE's threshold of 0.2).
    """
    better = torch.arange(0, len(features), 2)
    gaps = features.index_select(0, better) - features.index_select(0, better + 1)
    # both ways round, so that nothing but the answers tells them apart
    weight, bias = fit_logistic(torch.cat([gaps, -gaps]), [1] * len(better) + [0] * len(better), decay)
    spread = (features @ weight[:, None]).std()
    return weight / spread, torch.zeros_like(bias)


def fit_judge(features: torch.Tensor, labels: list[int], decay: float, preferences: bool):
    return fit_preferences(features, decay) if preferences else fit_logistic(features, labels, decay)


def around(text) -> tuple[str, str]:
    """What a judge reads before what it judges, and that; see `material.Judged`."""
    return ("", text) if isinstance(text, str) else (f"User: {text[0]}\nAssistant:", f" {text[1]}")


class WordClassifier:
    """TF-IDF of words and pairs of words, L2-normalised, under a logistic regression."""

    family = "logistic regression on TF-IDF of words and pairs of words"

    def __init__(self, vocabulary: dict[str, int], idf: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor):
        self.vocabulary, self.idf, self.weight, self.bias = vocabulary, idf, weight, bias

    @staticmethod
    def terms(text) -> list[str]:
        words = WORD.findall(around(text)[1].lower())
        return words + [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]

    @classmethod
    def fit(
        cls, texts: list, labels: list[int], minimum: int = 5, decay: float = 1e-5, preferences: bool = False
    ) -> "WordClassifier":
        """Terms that stand in fewer than `minimum` texts are left out."""
        counts = Counter(term for text in texts for term in set(cls.terms(text)))
        kept = sorted(term for term, count in counts.items() if count >= minimum)
        idf = torch.tensor([1 + math.log(len(texts) / counts[term]) for term in kept])
        model = cls({term: index for index, term in enumerate(kept)}, idf, torch.zeros(len(kept)), torch.zeros(1))
        model.weight, model.bias = fit_judge(model.features(texts), labels, decay, preferences)
        return model

    def features(self, texts: list) -> torch.Tensor:
        """`[texts, terms]`, sparse."""
        places, values = [], []
        for row, text in enumerate(texts):
            counts = Counter(self.vocabulary[term] for term in self.terms(text) if term in self.vocabulary)
            found = {index: count * self.idf[index].item() for index, count in counts.items()}
            norm = math.sqrt(sum(value * value for value in found.values())) or 1.0
            places += [(row, index) for index in found]
            values += [value / norm for value in found.values()]
        indices = torch.tensor(places, dtype=torch.long).reshape(-1, 2).T
        return torch.sparse_coo_tensor(
            indices, values, (len(texts), len(self.vocabulary)), dtype=torch.float32, check_invariants=True
        )

    def logits(self, texts: list) -> list[float]:
        return ((self.features(texts) @ self.weight[:, None])[:, 0] + self.bias).tolist()

    def save(self, path: Path) -> None:
        numbers = {name: getattr(self, name).tolist() for name in ("idf", "weight", "bias")}
        path.write_text(json.dumps({"terms": list(self.vocabulary)} | numbers), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, policy=None) -> "WordClassifier":
        saved = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = {term: index for index, term in enumerate(saved["terms"])}
        return cls(vocabulary, *(torch.tensor(saved[name]) for name in ("idf", "weight", "bias")))


class StateClassifier:
    """
    The mean over tokens of an untrained language model's states after one of its layers, under a logistic regression.
    Of a message with its answer, the mean is over the answer's tokens.

    Args:
        policy (`Callable`): loads the language model and its tokenizer.
        layer (`int`): number of layers that are run.
    """

    family = "logistic regression on a language model's mean state"

    def __init__(self, policy, layer: int, center, scale, weight, bias):
        self.layer, self.center, self.scale, self.weight, self.bias = layer, center, scale, weight, bias
        model, self.tokenizer = policy()
        self.model = model.get_decoder().eval()
        # the layers above are never run
        self.model.layers = self.model.layers[:layer]
        self.model.norm = torch.nn.Identity()
        if torch.accelerator.is_available():
            self.model.to(torch.accelerator.current_accelerator())

    @classmethod
    def fit(
        cls, policy, texts: list, labels: list[int], layer: int, decay: float = 1e-3, preferences: bool = False
    ) -> "StateClassifier":
        model = cls(policy, layer, 0.0, 1.0, None, None)
        states = model.states(texts)
        model.center, model.scale = states.mean(0), states.std(0) + 1e-6
        model.weight, model.bias = fit_judge((states - model.center) / model.scale, labels, decay, preferences)
        return model

    @torch.no_grad()
    def states(self, texts: list, batch_size: int = 64) -> torch.Tensor:
        """`[texts, hidden]`, in the order of the texts; those of like length go through the model together."""
        parts = [around(text) for text in texts]
        order = sorted(range(len(parts)), key=lambda index: len("".join(parts[index])))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = self.tokenizer(
                ["".join(parts[index]) or " " for index in batch],
                return_tensors="pt",
                padding=True,
                padding_side="right",
            ).to(self.model.device)
            states = self.model(**inputs, use_cache=False).last_hidden_state.float()
            mask = inputs["attention_mask"][:, :, None]
            for row, index in enumerate(batch):
                # what is read before it is no part of what is judged
                if before := parts[index][0]:
                    mask[row, : len(self.tokenizer(before)["input_ids"])] = 0
            means = (states * mask).sum(1) / mask.sum(1)
            found.update(zip(batch, means.cpu(), strict=True))
        return torch.stack([found[index] for index in range(len(texts))])

    def logits(self, texts: list) -> list[float]:
        return (((self.states(texts) - self.center) / self.scale) @ self.weight + self.bias).tolist()

    def save(self, path: Path) -> None:
        numbers = {name: getattr(self, name).tolist() for name in ("center", "scale", "weight", "bias")}
        path.write_text(json.dumps({"layer": self.layer} | numbers), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, policy=None) -> "StateClassifier":
        saved = json.loads(path.read_text(encoding="utf-8"))
        numbers = (torch.tensor(saved[name]) for name in ("center", "scale", "weight", "bias"))
        return cls(policy, saved["layer"], *numbers)


FAMILIES = {"words": WordClassifier, "states": StateClassifier}


def accuracy(logits: list[float], labels: list[int], preferences: bool = False) -> float:
    """Share of texts on the right side of 0 or, of preferences, of pairs whose better answer has the higher reward."""
    if preferences:
        right = [better > worse for better, worse in zip(logits[::2], logits[1::2], strict=True)]
    else:
        right = [(logit > 0) == bool(label) for logit, label in zip(logits, labels, strict=True)]
    return sum(right) / len(right)
