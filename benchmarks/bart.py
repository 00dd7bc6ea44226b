"""Hugging Face's BART of our models' size, a peer in training and in decoding."""

from __future__ import annotations

from typing import Any

from capdist.vocab import BOS, EOS, PAD


def largest_bart(vocabulary: int, parameters: int) -> Any:
    """BART of GLIED's width with at most so many parameters.

    One encoder layer, and as many decoder layers as the number allows, at least one.

    Raises:
        ImportError: if transformers is not installed.
    """
    layers = 1
    while sum(p.numel() for p in _bart(vocabulary, layers + 1).parameters()) <= parameters:
        layers += 1
    return _bart(vocabulary, layers)


def _bart(vocabulary: int, layers: int) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=vocabulary,
        d_model=512,
        encoder_layers=1,
        decoder_layers=layers,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)
