from preftune.training.health import WINDOW, Health, probe_warnings


def row(step: int, *, chosen: float, margin: float, norm: float = 1.0) -> dict[str, float]:
    return {
        "step": step,
        "loss": 0.5,
        "chosen_logratio": chosen,
        "margin": margin,
        "grad_norm": norm,
    }


def said(rows: list[dict[str, float]]) -> list[str]:
    health = Health()
    return [warning for r in rows for warning in health.watch(r)]


def test_displacement_is_said_once_when_chosen_falls_while_the_margin_grows() -> None:
    warnings = said([row(i, chosen=-0.1 * i, margin=0.1 * i) for i in range(60)])
    assert len(warnings) == 1
    assert "less likely" in warnings[0]
    assert "--nll-weight" in warnings[0]


def test_a_healthy_run_says_nothing() -> None:
    assert not said([row(i, chosen=0.02 * i, margin=0.1 * i) for i in range(60)])
    assert not said([row(i, chosen=-0.2, margin=0.1 * i) for i in range(60)])


def test_a_jump_of_the_gradient_is_said() -> None:
    calm = [row(i, chosen=0.0, margin=0.0, norm=1.0) for i in range(WINDOW)]
    assert not said([*calm, row(WINDOW, chosen=0.0, margin=0.0, norm=9.0)])
    (warning,) = said([*calm, row(WINDOW, chosen=0.0, margin=0.0, norm=11.0)])
    assert "11 times the median" in warning


def test_replay_says_nothing_twice() -> None:
    rows = [row(i, chosen=-0.1 * i, margin=0.1 * i) for i in range(60)]
    resumed = Health()
    resumed.replay(rows[:30])
    assert not [w for r in rows[30:] for w in resumed.watch(r)]


def test_probe_warns_of_distance_and_of_length() -> None:
    assert not list(probe_warnings({"kl": 1.0, "length_ratio": 1.1}, kl_alarm=1.5))
    distance, length = probe_warnings({"kl": 2.0, "length_ratio": 1.4}, kl_alarm=1.5)
    assert "2.00 nats" in distance
    assert "1.40 times" in length
