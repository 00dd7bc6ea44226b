"""LSTM decoders that several models build on, and the LSTM cell of the others."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from capdist.models.base import CaptionModel, State
from capdist.models.layers import Dropout
from capdist.models.step_linear import one_gradient
from capdist.words import Words

Tensors = dict[str, Tensor]


class SequenceLstmDecoder(CaptionModel[Tensors]):
    """An LSTM decoder whose inputs are words and the image, never its own output.

    So it can decode a whole caption at once, and a single word in the same way. Its memory has the
    state before the first word, "h" and "c" (B, 1, D), and whatever else `decode` reads.

    Args:
        inputs: width of the LSTM's inputs.
        width: D, of its state.
    """

    recurrent: ClassVar[bool] = True

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True)

    @abstractmethod
    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """(B, N, L) tokens, from states (B, N, D), to what ``output`` reads and the states after.

        The former is (B, N, L, D).
        """

    def recur(self, x: Tensor, hidden: Tensors | None = None) -> tuple[Tensor, Tensors]:
        """(B, N, L, inputs) to h_t (B, N, L, D) and the last h and c (B, N, D); zeros at first."""
        before = None
        if hidden is not None:
            before = (hidden["h"].flatten(0, 1)[None], hidden["c"].flatten(0, 1)[None])
        states, (h, c) = self.lstm(x.flatten(0, 1), before)
        rows = x.shape[:2]
        after = {"h": h[0].unflatten(0, rows), "c": c[0].unflatten(0, rows)}
        return states.unflatten(0, rows), after

    def states(self, memory: Tensors, words: Words) -> Tensor:
        """Of whole captions, padding included: only the output layer is spared it."""
        tokens = words.pad(words.tokens)
        state = self.start(memory, tokens.shape[1], tokens.shape[2])
        return words.pick(self.decode(memory, tokens, state.cache)[0])

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Every hypothesis begins with its image's state before the first word."""
        return State(memory, {name: memory[name].expand(-1, beams, -1) for name in ("h", "c")})

    def decode_word(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """As `states`, for captions of one word."""
        found, hidden = self.decode(state.memory, token[..., None], state.cache)
        return found[:, :, 0], replace(state, cache=hidden, position=state.position + 1)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """Empty, unless the model has attention."""
        return {}


class StepwiseLstmDecoder(CaptionModel[Tensors]):
    """An LSTM decoder that steps word by word, because its inputs depend on its last state.

    The words' share of the gates is computed for whole captions, and so are the logits from the
    states. The memory has the parts of the first state that ``carried`` names, each (B, 1, D), and
    whatever else `advance` and `predict` read. Embedded words are read as they are: public code of
    several of these models applies ReLU to them, which no paper mentions.

    Args:
        vocabulary: V.
        embedding: width of the word table.
        gates: width of all gates together.
        dropout: of words; a model may apply it elsewhere too.
    """

    recurrent: ClassVar[bool] = True
    #: What of a step's result the next one reads.
    carried: ClassVar[tuple[str, ...]] = ("h", "c")

    def __init__(self, vocabulary: int, embedding: int, gates: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, embedding)
        self.word_gates = nn.Linear(embedding, gates)
        self.dropout = Dropout(dropout)

    @abstractmethod
    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """The state after a word, whose share of the gates is ``word`` (B, K, gates).

        "h" and "c", and whatever `predict` and `attention` read, each (B, K, ...).
        """

    @abstractmethod
    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """What ``output`` reads after embedded words (B, ..., E), from the result of `advance`."""

    def unroll(
        self, memory: Tensors, words: Words, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensors]:
        """Embedded captions (B, S, L, E), and the states after each word, (B, S, L, ...).

        Every caption is a hypothesis of an image of its own; captions end from the last one on.
        ``weights`` (T, R) take the place of the attention, step by step, as the memory's "weights"
        in `advance`.
        """
        embedded = self.dropout(self.words(words.tokens))
        memory = {name: value.index_select(0, words.images) for name, value in memory.items()}
        after, steps = self.start(memory, 1, len(words.alive)).cache, []
        given = None if weights is None else weights.split(words.alive)
        gates = self.word_gates(embedded).split(words.alive)
        with one_gradient(self):
            for position, word in enumerate(gates):
                memory, after = _first(memory, len(word)), _first(after, len(word))
                if given is not None:
                    memory["weights"] = given[position][:, None]
                after = self.advance(memory, word[:, None], after)
                steps.append(after)
        found = {name: torch.cat([step[name][:, 0] for step in steps]) for name in after}
        return words.pad(embedded), {name: words.pad(value) for name, value in found.items()}

    def states(self, memory: Tensors, words: Words) -> Tensor:
        return words.pick(self.predict(memory, *self.unroll(memory, words)))

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Every hypothesis begins with its image's first state."""
        first = {name: memory[name].expand(-1, beams, -1) for name in self.carried}
        return State(memory, first)

    def decode_word(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """One position of `states`."""
        words = self.dropout(self.words(token))
        after = self.advance(state.memory, self.word_gates(words), state.cache)
        cache = {name: after[name] for name in state.cache}
        decoded = self.predict(state.memory, words, after)
        return decoded, replace(state, cache=cache, position=state.position + 1)


def _first(tensors: Tensors, rows: int) -> Tensors:
    return {name: first_rows(value, rows) for name, value in tensors.items()}


def first_rows(tensor: Tensor, rows: int) -> Tensor:
    """Its first rows; itself if it has no more, because a slice's gradient is a copy."""
    return tensor if len(tensor) == rows else tensor[:rows]


def initialise_gates(width: int, *layers: nn.Linear) -> None:
    """Draw the projections to an LSTM's gates from U(-1/√D, 1/√D), as torch initialises its LSTMs.

    A linear layer on its own would be drawn by the number of its inputs instead.
    """
    bound = width**-0.5
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """H' = σ(o) ⊙ tanh(c') and c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g), both (..., D).

    ``gates`` (..., 4 D) is the sum of all projected inputs, in the order i, f, o, g. Models project
    each input separately, so that those that do not change between steps are projected once.
    """
    i, f, o, g = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
