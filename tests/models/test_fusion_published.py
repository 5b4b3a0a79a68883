"""The published fusion: the images change nothing, to the last bit; its leaks; its folds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.models.fusion_published import (
    KINDS,
    LEAKS,
    PublishedRecipe,
    build_published,
    compare_leaks,
    demonstrate_image_use,
    fit_published,
    measure_image_use,
    predict_published,
    stack_tiles,
)
from helpers.models.study import limit_threads

SMALL = PublishedRecipe(n_tiles=6, width=16, heads=4, max_epochs=3, learning_rate=1e-2, n_folds=3)
BLIND = ("cross_attention", "concat_public", "genes")


def draw(n: int = 24, *, seed: int = 4) -> tuple[list[np.ndarray], pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    cases = pd.Index([f"c{i:02d}" for i in range(n)], name="case_id")
    labels = pd.Series((np.arange(n) % 3 == 0).astype(float), index=cases)
    bags = [rng.normal(size=(rng.integers(4, 12), 5)).astype("f4") + y for y in labels]
    genes = pd.DataFrame(rng.normal(size=(n, 7)), index=cases, columns=[f"G{i}" for i in range(7)])
    genes["G0"] += 2 * labels
    return bags, genes, labels


@pytest.mark.parametrize("kind", KINDS)
def test_exchanging_images_changes_the_output_by_exactly_nothing_or_by_something(kind: str) -> None:
    bags, genes, labels = draw()
    tiles = stack_tiles(bags, n_tiles=6, rng=np.random.default_rng(0))
    outputs, summary = demonstrate_image_use(
        tiles, genes.to_numpy(), labels.to_numpy(), recipe=SMALL, kinds=[kind], rng=np.random.default_rng(0)
    )
    row = summary.iloc[0]
    seen = ["largest_change", "largest_change_noise", "image_gradient", "image_weights_moved"]
    if kind in BLIND:
        assert (row[seen] == 0.0).all(), "not small: exactly 0"
        assert (outputs["logit"] == outputs["logit_exchanged"]).all()
        assert row["gene_weights_moved"] > 0
    else:
        assert (row[seen].astype(float) > 1e-6).all()
    assert (row["gene_gradient"] == 0) == (kind == "image")


def test_the_attention_weight_on_a_single_key_is_one_whatever_the_query() -> None:
    import torch

    network = build_published("cross_attention", n_features=5, n_genes=7, recipe=SMALL, seed=1)
    one = torch.randn(3, 1, 16)
    _, weights = network.attention(100 * torch.randn(3, 6, 16), one, one)
    assert (weights == 1).all()
    two = torch.randn(3, 2, 16)
    _, weights = network.attention(100 * torch.randn(3, 6, 16), two, two)
    assert weights.std() > 0.1, "with two keys the query decides"


def test_without_images_the_published_cross_validation_is_the_same() -> None:
    bags, genes, labels = draw()
    published = replace(SMALL, learning_rate=1e-5)  # at 1e-2 Adam blows the rounding of the mean over tiles up to 1e-3
    whole = predict_published("cross_attention", bags, genes, labels, recipe=published)
    blind = predict_published("cross_attention", bags, genes, labels, recipe=published, without_images=True)
    assert blind["y_pred"].to_numpy() == pytest.approx(whole["y_pred"].to_numpy(), abs=1e-5)
    assert blind["case_id"].tolist() == whole["case_id"].tolist()
    with pytest.raises(ModelError, match="'image' reads the images"):
        predict_published("image", bags, genes, labels, recipe=SMALL, without_images=True)


def test_the_folds_are_those_of_an_unstratified_kfold_with_seed_42() -> None:
    from sklearn.model_selection import KFold

    bags, genes, labels = draw()
    table = predict_published("genes", bags, genes, labels, recipe=SMALL)
    for fold, (_, test) in enumerate(KFold(3, shuffle=True, random_state=42).split(np.zeros(24))):
        assert table.loc[table["fold"] == fold, "case_id"].tolist() == labels.index[test].tolist()
    assert (table["threshold"] == 0.5).all()


def test_a_published_network_learns_where_there_is_something_to_learn() -> None:
    from sklearn.metrics import roc_auc_score

    bags, genes, labels = draw(120)
    longer = replace(SMALL, max_epochs=20)
    for kind in ("cross_attention", "concat", "image"):
        with limit_threads():  # sums in another order give another network, and small ones vary (0.71 to 0.89)
            table = predict_published(kind, bags, genes, labels, recipe=longer)
        assert roc_auc_score(table["y_true"], table["y_pred"]) > 0.75, kind


def test_each_leak_can_be_planted_and_is_caught() -> None:
    bags, genes, labels = draw()
    tiles = stack_tiles(bags, n_tiles=6, rng=np.random.default_rng(0))
    train, test = np.arange(16), np.arange(16, 24)
    x, y = genes.to_numpy(), labels.to_numpy()
    far, flipped = x.copy(), y.copy()
    far[test] += 50.0
    flipped[test] = 1 - flipped[test]
    options = {"train": train, "test": test, "seed": 3}
    clean = replace(SMALL, scaler_leak=False, stopping_leak=False)

    def fit(recipe: PublishedRecipe, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
        made = fit_published("genes", tiles, values, classes, recipe=recipe, **options)
        return np.concatenate([made.centre, [row["stopping_loss"] for row in made.history]])

    assert (fit(clean, far, flipped) == fit(clean, x, y)).all(), "without leaks the test fold is no argument of the fit"
    scaler, stopping = replace(clean, scaler_leak=True), replace(clean, stopping_leak=True)
    assert not np.allclose(fit(scaler, far, y), fit(scaler, x, y))
    assert fit(scaler, x, flipped) == pytest.approx(fit(scaler, x, y)), "the scaler leaks values, not classes"
    assert not np.allclose(fit(stopping, x, flipped)[-1], fit(stopping, x, y)[-1])


def test_the_leaks_are_compared_on_the_same_folds() -> None:
    _, genes, labels = draw()
    table = compare_leaks(genes, labels, recipe=SMALL)
    assert set(table["arm"]) == set(LEAKS)
    folds = table.pivot(index="case_id", columns="arm", values="fold")
    assert (folds.nunique(axis=1) == 1).all()


def test_a_recipe_is_repeatable_and_draws_nothing_from_the_global_state() -> None:
    import torch

    bags, genes, labels = draw()
    torch.manual_seed(0)
    first = predict_published("concat", bags, genes, labels, recipe=SMALL)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = predict_published("concat", bags, genes, labels, recipe=SMALL)
    assert (first["y_pred"] == second["y_pred"]).all()
    assert (torch.get_rng_state() == state).all()


def test_fewer_tiles_are_repeated_and_more_are_drawn_once() -> None:
    bags = [np.arange(3, dtype="f4")[:, None], np.arange(50, dtype="f4")[:, None]]
    tiles = stack_tiles(bags, n_tiles=10, rng=np.random.default_rng(0))
    assert tiles.shape == (2, 10, 1)
    assert set(tiles[0, :, 0]) <= {0, 1, 2}
    assert len(set(tiles[1, :, 0])) == 10


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ModelError, match="published network 'late' does not exist; there are cross_attention, concat"):
        build_published("late", n_features=2, n_genes=2, recipe=SMALL, seed=0)


def test_measuring_leaves_the_weights_alone() -> None:
    import torch

    network = build_published("concat", n_features=5, n_genes=7, recipe=SMALL, seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rng = np.random.default_rng(0)
    measure_image_use(network, rng.normal(size=(4, 6, 5)), rng.normal(size=(4, 7)), order=np.array([1, 2, 3, 0]))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
