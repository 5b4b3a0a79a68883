"""Many genes on the same folds: shapes, folds, frozen cases, combined arms, held-out maps, subtype calls."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.core.specs import ExpressionSpec, GeneArmName
from helpers.models.expression import (
    COMBINED,
    call_subtypes,
    choose_arms,
    draw_random_attention,
    explain_slide,
    list_gene_arms,
    predict_genes,
)
from helpers.models.study import find_held_out
from tests.models.toy_genes import make_study


def test_the_names_of_the_spec_are_the_arms_there_are() -> None:
    assert set(GeneArmName.__args__) == set(list_gene_arms()) | set(COMBINED)
    assert set(ExpressionSpec().arms) <= set(list_gene_arms()) | set(COMBINED)


def test_every_case_is_predicted_once_and_frozen_cases_by_the_mean_of_folds() -> None:
    study, expression = make_study()
    arms = ["ridge", "multi_task", "blend", "chosen"]
    predictions, fits = predict_genes(study, expression, arms, workers=2)
    assert predictions.groupby(["arm", "target", "case_id"]).size().eq(1).all()
    assert predictions[predictions["split"] == "external"]["fold"].eq(-1).all()
    assert {name: len(found) for name, found in fits.items()} == dict.fromkeys(arms, 2)
    ridge = predictions[(predictions["arm"] == "ridge") & (predictions["target"] == "a")].set_index("case_id")
    assert np.corrcoef(ridge["y_true"], ridge["y_pred"])[0, 1] > 0.85
    outside = study.bags.take(np.arange(8))
    expected = np.mean([fit.predict(outside)[:, 0] for fit in fits["ridge"]], axis=0)
    assert ridge.loc[study.cases[:8], "y_pred"].to_numpy() == pytest.approx(expected)
    again, _ = predict_genes(study, expression, ["multi_task"], workers=1)
    first = predictions[predictions["arm"] == "multi_task"]["y_pred"].to_numpy()
    assert np.allclose(np.sort(again["y_pred"]), np.sort(first)), "the numbers do not depend on threads"


def test_the_chosen_arm_is_the_one_with_the_least_inner_error() -> None:
    class Fixed:
        def __init__(self, inner, name):
            self.inner, self.name = inner, name

        def predict(self, bags):
            return np.full((len(bags), 2), self.name)

        def score_tiles(self, tiles):
            return np.full((len(tiles), 2), self.name)

    labels = np.arange(10.0).reshape(5, 2)
    good_a, good_b = labels + np.array([0, 5]), labels + np.array([5, 0])
    chosen = choose_arms({"one": Fixed(good_a, 1.0), "two": Fixed(good_b, 2.0)}, labels)
    assert chosen.which.tolist() == [0, 1]
    assert chosen.predict([0, 0]).tolist() == [[1, 2], [1, 2]]
    assert chosen.score_tiles(np.zeros((3, 1)))[0].tolist() == [1, 2]
    assert chosen.inner == pytest.approx(labels)
    with pytest.raises(ModelError, match="not stored"):
        chosen.to_arrays()


def test_a_case_is_mapped_by_the_model_that_did_not_see_it() -> None:
    study, expression = make_study()
    _, fits = predict_genes(study, expression, ["ridge", "multi_task"])
    inside = study.cases[study.locate(0, 1)[1][0]]
    assert find_held_out(study, inside, fits["ridge"]) == [fits["ridge"][1]]
    assert find_held_out(study, study.cases[0], fits["ridge"]) == fits["ridge"]
    maps = explain_slide(fits["multi_task"], study.bags[0], columns=[1])
    assert set(maps) == {"value", "attention", "product"}
    assert maps["attention"].sum() == pytest.approx(1)
    only = explain_slide(fits["ridge"], study.bags[0], columns=[0])
    assert only["value"].mean() == pytest.approx(np.mean([fit.predict([study.bags[0]])[0, 0] for fit in fits["ridge"]]))
    fit = fits["multi_task"][0]
    a, b = (draw_random_attention(fit, study.bags[i], n_draws=4, rng=np.random.default_rng(1)) for i in (0, 0))
    assert np.array_equal(a, b), "a draw is one net, whatever the slide"
    assert a.sum(axis=0) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(a[:, 0], a[:, 1])


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (["ridge", "magic"], "arm 'magic' does not exist"),
        (["ridge", "ridge"], "is named twice"),
        (["blend"], "combine others"),
    ],
)
def test_arms_that_cannot_be_are_refused(arms, said) -> None:
    study, expression = make_study(30)
    with pytest.raises(ModelError, match=said):
        predict_genes(study, expression, arms)
    with pytest.raises(ModelError, match="other cases"):
        predict_genes(study, expression.iloc[1:], ["ridge"])


def test_a_case_gets_the_subtype_whose_centroid_it_resembles() -> None:
    rng = np.random.default_rng(1)
    names = [f"g{i}" for i in range(20)]
    centre = {"A": rng.normal(size=20), "B": rng.normal(size=20)}
    truth = pd.Series(["A", "B"] * 30, index=[f"{i}" for i in range(60)])
    values = pd.DataFrame([2 * centre[name] + rng.normal(size=20) for name in truth], index=truth.index, columns=names)
    called = call_subtypes(values.iloc[40:], values.iloc[:40], truth.iloc[:40])
    assert (called == truth.iloc[40:]).mean() > 0.9
