"""What a model reads: the right file for each slide, the tiles that pass, targets with honest constants."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.cohort.splits import plan_folds
from helpers.core.errors import FeatureError
from helpers.features.store import FeatureBag
from helpers.models.bags import read_bags
from helpers.models.controls import compute_study_nulls, permute_features
from helpers.models.inputs import (
    find_feature_files,
    list_absent,
    locate_bag,
    locate_tiles,
    make_measure,
    make_reader,
    read_groups,
    read_slide,
    select_tiles,
)
from helpers.models.linear import RidgeFolds
from helpers.stats.correlation import compute_spearman_columns

SLIDES = pd.DataFrame({"slide_id": ["s1", "s2"], "case_id": ["a", "b"]})
PROLIF11 = ["BIRC5", "CCNB1", "CDC20", "NUF2", "CEP55", "NDC80", "MKI67", "PTTG1", "RRM2", "TYMS", "UBE2C"]


def make_bag(**options: object) -> FeatureBag:
    values = {
        "features": np.ones((3, 2), np.float32),
        "coords_l0": None,
        "qc": None,
        "attributes": {},
        "dialect": "clam",
    }
    return FeatureBag(**(values | options))  # type: ignore[arg-type]


def write_tensor(path: Path, rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.arange(rows * 2, dtype=torch.float32).reshape(rows, 2), path)
    return path


def test_features_of_the_cohort_are_found_by_their_path_and_a_slide_without_one_is_seen(tmp_path: Path) -> None:
    stored = write_tensor(tmp_path / "s1.pt", 3)
    files = find_feature_files(SLIDES.assign(features_path=[str(stored), None]))
    assert files["origin"].tolist() == ["cohort", "cohort"]
    assert files["features_file"].tolist() == [stored, None]


def test_features_of_others_win_and_are_read_by_slide_name(tmp_path: Path) -> None:
    write_tensor(tmp_path / "theirs" / "s2.pt", 4)
    files = find_feature_files(SLIDES, features_dir=tmp_path / "theirs", encoder_dir=tmp_path / "ours")
    assert files["origin"][0] == "features_dir"
    read = make_reader(files)
    assert read("s2").shape == (4, 2)


def test_a_missing_folder_names_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "features" / "mean_colour").mkdir(parents=True)
    with pytest.raises(FeatureError, match="there is no feature folder 'uni' in .*it holds mean_colour"):
        find_feature_files(SLIDES, encoder_dir=tmp_path / "features" / "uni")
    with pytest.raises(FeatureError, match=r"none of the 2 slides has .*first looked for 's1\.h5'; it holds .+\. Name"):
        find_feature_files(SLIDES, encoder_dir=tmp_path / "features" / "mean_colour")
    with pytest.raises(FeatureError, match="neither features_dir nor chapter 02 is given"):
        find_feature_files(SLIDES)


def test_filters_drop_a_tile_for_each_reason_and_nothing_else() -> None:
    qc = pd.DataFrame(
        {
            "tissue_fraction": [0.9, 0.4, 0.9, 0.9, 0.9, 0.9],
            "pen_red_fraction": [0.0, 0.0, 0.04, 0.0, 0.0, 0.0],
            "pen_blue_fraction": [0.0, 0.0, 0.04, 0.0, 0.0, 0.0],
            "thick_fraction": [0.0, 0.0, 0.0, 0.8, 0.0, 0.0],
            "grey_fraction": [0.0, 0.0, 0.0, 0.0, 0.8, 0.0],
            "sharpness": [0.7, 0.7, 0.8, 0.7, 0.6, 0.3],
        }
    )
    bag = make_bag(features=np.ones((6, 2), np.float32), qc=qc)
    assert select_tiles(bag, min_sharpness=0.0).tolist() == [True, False, False, False, False, True]
    assert select_tiles(bag).tolist() == [True, False, False, False, False, False]  # 0.3 against a median of 0.7


def test_features_without_quality_columns_pass_whole_and_a_missing_column_is_named() -> None:
    assert select_tiles(make_bag()).tolist() == [True, True, True]
    with pytest.raises(
        FeatureError, match="the tiles carry no sharpness, thick_fraction, grey_fraction; found tissue_fraction"
    ):
        select_tiles(make_bag(qc=pd.DataFrame({"tissue_fraction": [1.0, 1.0, 1.0]})))


def test_tiles_are_located_in_um_by_x_and_y_resolution() -> None:
    attributes = {"mpp_x": 0.5, "mpp_y": 0.25, "patch_size_level0": 256}
    located = locate_tiles(make_bag(coords_l0=np.array([[0, 0], [10, 20], [30, 40]]), attributes=attributes))
    assert located is not None
    assert located.coords_um.tolist() == [[0, 0], [5, 5], [15, 10]]
    assert (located.tile_um, located.size_um) == (128, None)
    assert locate_tiles(make_bag()) is None


def test_stamp_states_um_itself_and_the_size_of_a_slide_follows_its_pixels() -> None:
    stamp = locate_tiles(make_bag(coords_um=np.array([[0.0, 0.0]] * 3), attributes={"tile_size_um": 256.0}))
    assert stamp is not None
    assert stamp.tile_um == 256
    attributes = {"mpp_x": 0.5, "mpp_y": 0.25, "patch_size_level0": 256, "level0_width": 2000, "level0_height": 1000}
    ours = locate_tiles(make_bag(coords_l0=np.zeros((3, 2), np.int64), attributes=attributes))
    assert ours is not None
    assert ours.size_um == (1000, 250)


def test_score_constants_follow_the_training_cases_and_a_single_gene_needs_none() -> None:
    rng = np.random.default_rng(1)
    expression = pd.DataFrame(rng.normal(8, 2, size=(20, 11)), columns=PROLIF11, index=[f"{i:02d}" for i in range(20)])
    measure = make_measure(expression, targets=["prolif11", "MKI67"], score_method="mean_log2", others=["mean_zscore"])
    few, many = measure(expression.index[:6]), measure(expression.index)
    assert list(few) == ["prolif11", "prolif11_mean_zscore", "MKI67"]
    assert few["prolif11"].equals(expression[PROLIF11].mean(axis=1))
    assert few["MKI67"].equals(expression["MKI67"])
    assert not np.allclose(few["prolif11_mean_zscore"], many["prolif11_mean_zscore"])
    assert few["prolif11_mean_zscore"].iloc[:6].mean() == pytest.approx(0)


def test_cases_without_a_site_share_one_group_and_known_sites_stay() -> None:
    cases = pd.DataFrame({"case_id": ["a", "b", "c"], "site": ["X", None, np.nan]})
    assert read_groups(cases).tolist() == ["X", "not stated", "not stated"]
    assert read_groups(cases.assign(site="X")).tolist() == ["X", "X", "X"]
    assert read_groups(cases.drop(columns="site")).tolist() == ["not stated"] * 3
    assert read_groups(cases).index.tolist() == ["a", "b", "c"]


def test_the_null_of_a_cohort_without_sites_is_a_null_and_not_the_observed_value_again() -> None:
    rng = np.random.default_rng(4)
    cases = pd.DataFrame({"case_id": [f"{i:02d}" for i in range(60)]})
    x = pd.DataFrame(rng.normal(size=(60, 3)), index=pd.Index(cases["case_id"]))
    measured, site = x[0] + 0.3 * rng.normal(size=60), read_groups(cases)
    splits = plan_folds(cases, n_folds=4, repeats=1, seed=1, site_column=None)
    folds = RidgeFolds(x, splits, groups=site)
    observed = compute_spearman_columns(measured.to_numpy()[:, None], folds.refit(measured.to_numpy()[:, None]))[0]
    null = compute_study_nulls(
        folds, measured, split=pd.Series("development", index=x.index), groups=site, n_permutations=19, rng=rng
    )["development"]
    assert observed > 0.8
    assert null.max() < 0.6
    assert not permute_features(x, site, rng=rng).equals(x)


def test_every_absent_case_has_a_reason() -> None:
    cases = pd.DataFrame({"case_id": ["a", "b", "c", "d"]})
    splits = pd.DataFrame({"case_id": ["a", "b", "c"]})
    reasons = list_absent(cases, pooled=pd.Index(["a", "c", "d"]), expression=pd.Index(["a", "b", "d"]), splits=splits)
    assert reasons == {"b": "no tile with features", "c": "no expression", "d": "in no split"}


def test_features_of_two_encoders_are_joined_tile_by_tile(tmp_path: Path) -> None:
    write_tensor(tmp_path / "one" / "s1.pt", 3)
    write_tensor(tmp_path / "two" / "s1.pt", 3)
    write_tensor(tmp_path / "one" / "s2.pt", 3)
    files = find_feature_files(SLIDES, encoder_dir=tmp_path / "one+two")
    assert files["features_file"].tolist() == [(tmp_path / "one" / "s1.pt", tmp_path / "two" / "s1.pt"), None]
    joined = make_reader(files)("s1")
    assert joined.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3], [4, 5, 4, 5]]


def test_encoders_that_saw_other_tiles_are_not_joined(tmp_path: Path) -> None:
    files = (write_tensor(tmp_path / "one" / "s1.pt", 3), write_tensor(tmp_path / "two" / "s1.pt", 4))
    with pytest.raises(FeatureError, match="slide 's1' has 3 tiles in 'one' and 4 in 'two'"):
        read_slide(files, "s1")
    with pytest.raises(FeatureError, match="there is no feature folder 'three'"):
        find_feature_files(SLIDES, encoder_dir=tmp_path / "one+three")


def test_a_further_filter_narrows_the_choice(tmp_path: Path) -> None:
    write_tensor(tmp_path / "one" / "s1.pt", 3)
    files = find_feature_files(SLIDES, encoder_dir=tmp_path / "one")
    read = make_reader(files, keep=lambda slide_id, bag: np.arange(len(bag.features)) != (1 if slide_id == "s1" else 9))
    assert read("s1").tolist() == [[0, 1], [4, 5]]


def test_the_tiles_of_a_bag_are_located_in_the_order_in_which_they_were_read(tmp_path: Path) -> None:
    import h5py

    slides = pd.DataFrame({"slide_id": ["s1", "s2", "s3"], "case_id": ["a", "a", "b"]})
    for number, slide_id in enumerate(slides["slide_id"]):
        with h5py.File(tmp_path / f"{slide_id}.h5", "w") as file:
            file["features"] = np.full((2, 3), number, np.float32)
            file["coords"] = np.array([[0, 10], [256, 10]]) + 1000 * number
            file["coords"].attrs["patch_size_level0"] = 256
    files = find_feature_files(slides, features_dir=tmp_path)
    located = locate_bag(files, "a")
    assert located["slide_id"].tolist() == ["s1", "s1", "s2", "s2"]
    assert located["x_l0"].tolist() == [0, 256, 1000, 1256]
    assert (located["edge_l0"] == 256).all()
    bags, owners = read_bags(files, make_reader(files))
    assert len(bags[owners.get_loc("a")]) == len(located)
    assert bags[owners.get_loc("a")][2, 0] == 1, "the third tile is the second slide's"


def test_tiles_without_coordinates_have_no_place(tmp_path: Path) -> None:
    write_tensor(tmp_path / "s1.pt", 2)
    located = locate_bag(find_feature_files(SLIDES[:1], features_dir=tmp_path), "a")
    assert located[["x_l0", "edge_l0"]].isna().all(axis=None)
