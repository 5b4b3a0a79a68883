"""Labels planted on a phantom: their signal lies where it is said to lie, and nowhere else."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.core.errors import PhantomError
from helpers.core.specs import PhantomSpec
from helpers.phantom.planted_labels import GENE_DRIVER, IMAGE_DRIVER, KINDS, plant_label, standardise
from helpers.phantom.truth import plan_cohort
from tests.phantom.simulated_bags import simulate_bags


@pytest.fixture(scope="module")
def truth():
    return plan_cohort(PhantomSpec(n_cases=3000, n_external=0, seed=4, render=False)).cases_truth


def test_each_label_follows_its_drivers_and_no_other(truth) -> None:
    image, genes = (truth[name].to_numpy() for name in (IMAGE_DRIVER, GENE_DRIVER))
    found = {}
    for kind in KINDS:
        y = plant_label(truth, kind=kind, seed=1).to_numpy()
        assert 0.35 < y.mean() < 0.65
        found[kind] = roc_auc_score(y, image), roc_auc_score(y, genes)
    assert found["genes"][1] > 0.8 > 0.6 > found["genes"][0]
    assert found["image"][0] > 0.8 > 0.6 > found["image"][1]
    assert min(found["both"]) > 0.7
    for kind in ("interaction", "nothing"):
        assert found[kind] == pytest.approx((0.5, 0.5), abs=0.06)
    y = plant_label(truth, kind="interaction", seed=1).to_numpy()
    assert roc_auc_score(y, standardise(image) * standardise(genes)) > 0.7, (
        "the interaction is there, though neither alone says so"
    )


def test_the_drivers_are_nearly_independent(truth) -> None:
    assert abs(np.corrcoef(truth[IMAGE_DRIVER], truth[GENE_DRIVER])[0, 1]) < 0.15


def test_a_label_depends_on_seed_and_kind_alone(truth) -> None:
    first, again = (plant_label(truth, kind="both", seed=9) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(plant_label(truth, kind="both", seed=10))
    assert first.index.tolist() == truth["case_id"].tolist()


def test_what_is_no_phantom_is_refused(truth) -> None:
    with pytest.raises(PhantomError, match="the truth has no column 'factor_her2'"):
        plant_label(truth.drop(columns=GENE_DRIVER), kind="both", seed=1)
    with pytest.raises(PhantomError, match="label 'all' is unknown"):
        plant_label(truth, kind="all", seed=1)  # type: ignore[arg-type]


def test_simulated_tiles_let_an_encoder_read_the_image_driver_and_not_the_genes(truth) -> None:
    few = truth.head(400)
    bags = simulate_bags(few, seed=2)
    means = np.stack([bag.mean(axis=0) for bag in bags])
    design = np.column_stack([means, np.ones(len(means))])

    def read(name: str) -> float:
        fit, *_ = np.linalg.lstsq(design, few[name], rcond=None)
        return float(np.corrcoef(design @ fit, few[name])[0, 1])

    assert 0.6 < read(IMAGE_DRIVER) < 0.9
    assert read(GENE_DRIVER) < 0.35
    assert all(bag.dtype == np.float32 and len(bag) >= 3 for bag in bags)
