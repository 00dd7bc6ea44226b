from dataclasses import dataclass, field

from capdist.reporting.progress import describe_step


@dataclass
class Step:
    loss: float = 2.3456
    lr: float = 5e-4
    captions_per_s: float = 1234.4
    step_s: float = 0.5
    data_s: float = 0.124
    skipped: int = 0
    figures: dict[str, float] = field(default_factory=dict)


def test_a_step_is_described_in_one_line() -> None:
    assert describe_step(Step()) == "loss 2.346, 1234 captions/s, lr 5.00e-04, data 25 %"
    described = describe_step(Step(skipped=2, figures={"reward": 0.5}))
    assert described.endswith("data 25 %, reward 0.500, 2 skipped")
