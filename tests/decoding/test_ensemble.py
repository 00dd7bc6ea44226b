"""An ensemble averages probabilities, and decodes like a single model."""

from __future__ import annotations

import pytest
import torch

from capdist.decoding.ensemble import Ensemble
from capdist.vocab import BOS, PAD
from tests.support.decoding import V, batch_of, make, search
from tests.support.models import B


def test_probabilities_are_averaged() -> None:
    models, batch = [make("glied"), make("lstm"), make("glied")], batch_of(V)
    models[2].get_parameter("output.weight").data.mul_(-1)
    ensemble, tokens = Ensemble(models).eval(), batch.inputs
    with torch.inference_mode():
        probs = [model(model.encode(batch), tokens).softmax(-1) for model in models]
        found = ensemble(ensemble.encode(batch), tokens)
        torch.testing.assert_close(found.exp(), torch.stack(probs).mean(0))
        attention = ensemble.attention(ensemble.encode(batch), tokens)
        parts = [models[i].attention(models[i].encode(batch), tokens)["regions"] for i in (0, 2)]
    torch.testing.assert_close(attention["regions"], torch.stack(parts).mean(0))


def test_an_ensemble_of_equal_models_is_the_model() -> None:
    model, batch = make("glied"), batch_of(V)
    alone, twice = (search(m, batch, 3, 5) for m in (model, Ensemble([model, model]).eval()))
    assert torch.equal(alone.tokens, twice.tokens)
    torch.testing.assert_close(alone.scores, twice.scores)


@pytest.mark.parametrize("beam", [1, 3])
def test_beam_scores_are_those_of_the_ensemble(beam: int) -> None:
    ensemble, batch = Ensemble([make("glied"), make("lstm")]).eval(), batch_of(V)
    found = search(ensemble, batch, beam, 5)
    inputs = torch.cat([torch.full((B, beam, 1), BOS), found.tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = ensemble(ensemble.encode(batch), inputs).log_softmax(-1)
    chosen = log_probs.gather(-1, found.tokens[..., None])[..., 0]
    scores = chosen.masked_fill(found.tokens == PAD, 0).sum(-1)
    torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-4)
