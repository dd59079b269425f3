"""The catalogue: what comes with the package, what a user adds, which entry is the best, what is refused."""

import pytest
import yaml

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.runs.exchange.catalogue import PACKAGED, file_name, read_catalogue

OWN_CATALOGUE = {"kind": "obsrnn", "targets": ["oud"], "url": "http://127.0.0.1/oud.ckpt", "licence": "CC0"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    def write(values):
        (tmp_path / "models.yaml").write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        monkeypatch.setenv("REFINED_BSRNN_MODELS", str(tmp_path / "models.yaml"))
        return read_catalogue()

    return write


def test_every_public_model_of_the_package_says_what_it_must():
    raw = yaml.safe_load(PACKAGED.read_text())["models"]
    entries = read_catalogue().entries
    assert list(entries) == list(raw)
    assert len(entries) == 9
    for name, entry in entries.items():
        assert entry.url.startswith("https://"), name
        assert entry.bytes > 10**7
        assert (entry.config is None) == (entry.kind == "obsrnn")
    assert entries["obsrnn-4stems"].checksum == ("md5", "817e8ce4bcd17c38bd3812167e97db58")
    assert entries["bs-roformer-4stems"].checksum is None
    assert entries["mel-roformer-vocals-kim"].score == "vocals 10.98 dB (SDR, Multisong)"


@pytest.mark.parametrize(
    ("heads", "name"),
    [
        (["vocals"], "mel-roformer-vocals-kim"),
        (["guitar"], "mel-roformer-guitar-chencfd"),
        (["bass", "drums"], "obsrnn-4stems"),
        (["piano"], "bs-roformer-6stems"),
        (["vocals", "guitar"], "bs-roformer-6stems"),
        (["back_vocals"], "mel-roformer-karaoke-becruily"),
        (None, "obsrnn-4stems"),
    ],
)
def test_the_best_one_has_all_heads_asked_for(heads, name):
    assert read_catalogue().best_for(heads).name == name


def test_where_no_single_model_has_all_heads_the_best_of_each_is_named():
    with pytest.raises(
        RecipeError, match=r"drums: obsrnn-4stems, lead_vocals: mel-roformer-karaoke-becruily, oud: none"
    ):
        read_catalogue().best_for(["drums", "lead_vocals", "oud"])


def test_a_users_file_extends_and_replaces(write):
    kim = {**OWN_CATALOGUE, "url": "http://127.0.0.1/kim.ckpt", "targets": ["vocals"]}
    found = write({"models": {"my-oud": OWN_CATALOGUE, "mel-roformer-vocals-kim": kim}, "best": ["my-oud"]})
    assert len(found.entries) == 10
    assert found.find("mel-roformer-vocals-kim").url == "http://127.0.0.1/kim.ckpt"
    assert found.best_for(["oud"]).name == "my-oud"
    assert found.best_for(["vocals"]).licence == "CC0"


def test_the_usual_place_of_a_users_file(tmp_path, monkeypatch):
    monkeypatch.delenv("REFINED_BSRNN_MODELS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "refined_bsrnn").mkdir()
    (tmp_path / "refined_bsrnn" / "models.yaml").write_text(yaml.safe_dump({"models": {"my-oud": OWN_CATALOGUE}}))
    assert "my-oud" in read_catalogue().entries


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"licence": None}, "does not say its licence"),
        ({"kind": "demucs"}, "kind 'demucs' is unknown. Known: obsrnn"),
        ({"url": "file:///etc/passwd"}, "expected the http.s. address of a file"),
        ({"url": "https://example.org/"}, "expected the http.s. address of a file"),
        ({"bytes": "many"}, "bytes is 'many'; expected a whole number"),
        ({"md5": 123}, "md5 is 123; expected 32 hexadecimal digits"),
        ({"sha256": "0" * 63}, "expected 64 hexadecimal digits"),
        ({"kind": "bs_roformer"}, "has no config"),
        ({"config": {"model": {}}}, "has a config"),
        ({"kind": "bs_roformer", "config": "http://127.0.0.1/c/oud.ckpt"}, "url and config both end in oud.ckpt"),
        ({"targets": "oud"}, "targets is 'oud'; expected a list"),
        ({"targets": ["../oud"]}, "cannot name a target"),
        ({"published": {"vocals": 3.0}}, "expected set, metric and a number"),
        ({"published": {"set": "a", "metric": "SDR", "vocals": "good"}}, "expected set, metric and a number"),
        ({"license": "MIT"}, "says 'license'. Did you mean 'licence'"),
        ("none", "is str; expected a mapping"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(write, entry, problem):
    with pytest.raises(RecipeError, match=rf"models.yaml: my-oud.*{problem}|{problem}"):
        write({"models": {"my-oud": {**OWN_CATALOGUE, **entry} if isinstance(entry, dict) else entry}})


@pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden", "best", "", "x" * 101])
def test_a_name_that_would_be_another_path_is_refused(write, name):
    with pytest.raises(RecipeError, match="cannot name a model"):
        write({"models": {name: OWN_CATALOGUE}})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "expected a mapping"),
        ("models: [a]", "expected models as a mapping"),
        ("modles: {}", "says 'modles'"),
        ("best: [kim]", "best names 'kim', which is no model"),
        ("models: {a: !!python/object/apply:os.system ['touch owned']}", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_in_it_runs(write, tmp_path, text, problem):
    with pytest.raises(RecipeError, match=problem):
        write(text)
    assert not (tmp_path / "owned").exists()


def test_a_named_file_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("REFINED_BSRNN_MODELS", "nowhere.yaml")
    with pytest.raises(RecipeError, match="REFINED_BSRNN_MODELS names nowhere.yaml, which is not there"):
        read_catalogue()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.org/a/b%20c.ckpt?download=1", "b c.ckpt"),
        ("https://x.org/a/..%2f..%2fetc", "etc"),
        ("https://x.org/a/%2e%2e", ""),
    ],
)
def test_a_file_has_the_last_part_of_its_address_as_its_name(url, name):
    assert file_name(url) == name
