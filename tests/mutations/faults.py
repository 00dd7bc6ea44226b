"""Twenty faults of the kind that a tired programmer makes."""

from __future__ import annotations

from tests.mutations.runner import Fault

FAULTS = (
    Fault(
        "SCST sign",
        "captions better than the baseline become less likely",
        "    weights = words.pick(advantage[..., None].expand(words.shape)).float()\n",
        "    weights = -words.pick(advantage[..., None].expand(words.shape)).float()\n",
        ("tests/losses/test_self_critical.py",),
    ),
    Fault(
        "clipped caption",
        "a long caption loses one word too many",
        "words[:max_words]\n",
        "words[: max_words - 1]\n",
        ("tests/test_vocab.py", "tests/data/test_collate.py"),
    ),
    Fault(
        "padding in cross entropy",
        "padding counts as words",
        "        words = Words.of(tokens[..., :-1], tokens[..., 1:] != PAD)\n",
        "        words = Words.of(tokens[..., :-1], tokens[..., 1:] >= PAD)\n",
        ("tests/losses/test_cross_entropy.py",),
    ),
    Fault(
        "region mask",
        "additive attention looks at padding",
        "return masked_softmax(self.score(hidden)[..., 0], mask[:, None])",
        "return self.score(hidden)[..., 0].softmax(-1)",
        ("tests/models/test_soft_attention.py", "tests/contract/test_models.py"),
    ),
    Fault(
        "rank plan",
        "ranks swap their lanes",
        "range(self.ranks.rank, self.order.lanes, self.ranks.world)",
        "range(self.ranks.world - 1 - self.ranks.rank, self.order.lanes, self.ranks.world)",
        ("tests/data/test_order.py", "tests/data/test_readers.py"),
    ),
    Fault(
        "mean of means",
        "every rank divides by its own tokens instead of the tokens of all",
        "            result = self.engine.step(batches, max(weight, 1.0), lr)\n",
        "            weight = sum(map(self.objective.weight, batches)) * self.group.ranks.world\n"
        "            result = self.engine.step(batches, max(weight, 1.0), lr)\n",
        ("tests/contract/test_objectives.py",),
    ),
    Fault(
        "checksum",
        "checksums of samples are not compared",
        " or len(data) != member.size or crc32(data) != member.crc32:",
        " or len(data) != member.size:",
        ("tests/data/test_damaged_shards.py",),
    ),
    Fault(
        "idf",
        "document frequencies are one too large",
        "np.log(np.append(self.counts, self.images)",
        "np.log(np.append(self.counts + 1, self.images)",
        ("tests/metrics/test_cider_d.py", "tests/metrics/test_document_frequency.py"),
    ),
    Fault(
        "end token",
        "rewards do not see where a caption ends",
        "    written = tokens != PAD\n",
        "    written = (tokens != PAD) & (tokens != EOS)\n",
        ("tests/rewards/test_rewards.py", "tests/contract/test_rewards.py"),
    ),
    Fault(
        "CIDEr-D sigma",
        "5 instead of 6",
        "        sigma: float = 6.0,\n",
        "        sigma: float = 5.0,\n",
        ("tests/metrics/test_cider_d.py", "tests/rewards/test_rewards.py"),
    ),
    Fault(
        "resume offset",
        "on several ranks, a rank skips the samples of all ranks",
        "self._refs(epoch, start * size)",
        "self._refs(epoch, start * self.images)",
        ("tests/data/test_order.py", "tests/data/test_readers.py"),
    ),
    Fault(
        "schedule",
        "a step gets the learning rate of the step before",
        "    now = step + 1\n",
        "    now = step\n",
        ("tests/training/test_schedule.py",),
    ),
    Fault(
        "back-pointer",
        "captions are read out along one slot of the beam",
        "            slot = parents.gather(1, slot)\n",
        "",
        ("tests/decoding/test_beam.py",),
    ),
    Fault(
        "length penalty",
        "the sign of the exponent",
        "return ((5 + lengths) / 6) ** -config.alpha",
        "return ((5 + lengths) / 6) ** config.alpha",
        ("tests/decoding/test_beam.py",),
    ),
    Fault(
        "ties",
        "of equal candidates the last comes first",
        "indices.append(left.argmax(-1, keepdim=True))",
        "indices.append(left.shape[-1] - 1 - left.flip(-1).argmax(-1, keepdim=True))",
        ("tests/kernels/test_beam_step_reference.py",),
    ),
    Fault(
        "int8 scale",
        "int8 regions are not scaled",
        "            np.multiply(array, 1 if scale is None else scale, out=part[:, :of_set])\n",
        "            part[:, :of_set] = array\n",
        ("tests/data/test_int8.py",),
    ),
    Fault(
        "feature sets",
        "the regions of all feature sets pass for those of the first",
        "    sets: Array = (np.arange(mask.shape[1])[:, None] >= ends).sum(2) * mask\n",
        "    sets: Array = np.zeros(mask.shape, np.int64)\n",
        ("tests/data/test_feature_sets.py",),
    ),
    Fault(
        "atomic write",
        "a file that was not written to its end gets its name",
        """        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
""",
        """        try:
            with temporary.open("wb") as file:
                yield file
        finally:
            temporary.replace(path)
""",
        ("tests/shards/test_atomic.py", "tests/shards/test_writer.py"),
    ),
    Fault(
        "fingerprint",
        "sets of two feature extractors are mixed",
        "    difference = mine.fingerprint.difference(found.fingerprint)\n",
        '    difference = ""\n',
        ("tests/data/test_mixture.py",),
    ),
    Fault(
        "optimizer state",
        "a resumed run starts with a fresh Adam",
        '        self.optimizer.load_state_dict(state["optimizer"])\n',
        "",
        ("tests/engines/test_engines.py",),
    ),
    Fault(
        "Ray's answers",
        "a call for rewards gets the answer to a later call",
        "future = self._waiting.popleft()[0].future",
        "future = self._waiting.pop()[0].future",
        ("tests/workers/test_reward_pool.py",),
    ),
)
