"""A recorded config cannot choose what is imported, where files are written, or which host is contacted."""

import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.config import trust
from src.config.compose import compose, update
from src.config.groups import extension_modules
from src.config.schema.registry import SCHEMAS
from src.config.trust import (
    check_recorded_config,
    check_recorded_overrides,
    is_trusted,
    parse_trust_flags,
    writable_data_folder,
)
from src.config.validate import check
from src.core.errors import UserError

SOURCE = Path("run", "config.yaml")


@pytest.fixture(autouse=True)
def without_trust(monkeypatch):
    for variable in (trust.TRUST, trust.TRUST_HOST, trust.TRUSTED_DATA, trust.TRUSTED_SETTINGS, "GRIDLIGHT_DATA"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv(variable, "") if variable != "GRIDLIGHT_DATA" else None


@pytest.fixture
def recorded():
    return check(compose([])).plain()


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Return the name of a module that writes a file when it, or its package, is imported."""
    for name in ("canary_package/__init__.py", "canary_package/payload.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "canary_package.payload"
    assert not (tmp_path / "imported").exists()


POSITIONS = [
    "model",
    "datamodule",
    "optimizer",
    "scheduler",
    "callbacks.mine",
    "logger.mine",
    "trainer",
    "regularization",
]


def with_target(config, position, target):
    changed = deepcopy(config)
    node = changed
    for key in position.split("."):
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node["_target_"] = target
    return changed


@pytest.mark.parametrize("position", POSITIONS)
def test_untrusted_class_is_refused_before_it_is_imported(position, recorded, canary):
    config = with_target(recorded, position, f"{canary}.Model")
    with pytest.raises(UserError, match=r"(?s)not a class of Gridlight.*--trust canary_package\.payload"):
        check_recorded_config(config, SOURCE)


@pytest.mark.parametrize("nested", [{"_target_": "{}"}, [{"_target_": "{}"}], {"deep": [{"er": {"_target_": "{}"}}]}])
def test_nested_classes_are_refused(nested, recorded, canary):
    config = deepcopy(recorded)
    config["model"]["transforms"] = eval(repr(nested).replace("{}", f"{canary}.Model"))
    with pytest.raises(UserError, match="--trust"):
        check_recorded_config(config, SOURCE)


@pytest.mark.parametrize("target", [5, [], {}, ["os.system"], "x", "os.system;", "../x.Y", "a..b", ".a", ""])
def test_invalid_class_name_is_refused(target, recorded):
    with pytest.raises(UserError, match=r"package\.module\.Class"):
        check_recorded_config(with_target(recorded, "model", target), SOURCE)


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.Popen", "src.models.mlp.MLP.forward"])
def test_importable_names_that_are_not_shipped_classes_are_refused(target, recorded):
    with pytest.raises(UserError, match="is not a class of Gridlight"):
        check_recorded_config(with_target(recorded, "model", target), SOURCE)


@pytest.mark.parametrize("target", [target for group in SCHEMAS.values() for target in group if target])
def test_every_shipped_class_is_trusted(target):
    assert is_trusted(target)


def test_trusted_module_includes_the_modules_below_it(monkeypatch):
    assert parse_trust_flags(["a=1", "--trust", "mine.models", "--trust=other", "b"]) == ["a=1", "b"]
    assert is_trusted("mine.models.Net") and is_trusted("mine.models.deep.Net") and is_trusted("other.Net")
    assert not is_trusted("mine.models2.Net") and not is_trusted("mine.Net")


@pytest.mark.parametrize(
    "flags", [["--trust"], ["--trust", "--json"], ["--trust", "a/b"], ["--trust-host", "http://x"]]
)
def test_flags_with_a_missing_or_invalid_value_are_refused(flags):
    with pytest.raises(UserError):
        parse_trust_flags(flags)


def test_classes_of_a_composed_config_are_trusted_in_this_process(monkeypatch):
    compose(["model._target_=mine.Net"])
    assert is_trusted("mine.Net") and not is_trusted("mine.Other")


def test_classes_in_the_config_folder_of_the_user_are_trusted(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text("model:\n  _target_: own_package.models.Net\n")
    monkeypatch.setattr(sys, "argv", ["train", f"--config-dir={tmp_path}"])
    assert is_trusted("own_package.models.Net") and not is_trusted("own_package.models.Other")


def test_no_resolver_runs_on_a_recorded_config(recorded, monkeypatch):
    monkeypatch.setenv("SECRET", "canary-secret")
    recorded["notes"] = "${oc.env:SECRET}"
    recorded["datamodule"]["name"] = "${oc.env:SECRET}"
    config = check(update(check_recorded_config(recorded, SOURCE), []))
    assert config.notes == "${oc.env:SECRET}" and "canary-secret" not in str(config.plain())


def test_no_resolver_runs_for_an_error_message(recorded, monkeypatch):
    monkeypatch.setenv("SECRET", "canary-secret")
    recorded["optimizer"]["lr"] = "${oc.env:SECRET}"
    recorded["model"] = "${oc.env:SECRET}"
    with pytest.raises(UserError) as raised:
        check(update(check_recorded_config(recorded, SOURCE), []))
    assert "canary-secret" not in str(raised.value)


def test_interpolation_in_a_change_of_a_recorded_config_is_refused(recorded):
    with pytest.raises(UserError, match="no interpolations"):
        update(recorded, ["notes=${oc.env:HOME}"])


@pytest.mark.parametrize("value", ["/etc", "~/x", "../x", "a/../../x", "C:\\x", "\\\\host\\share"])
@pytest.mark.parametrize("entry", ["callbacks.checkpoints.dirpath", "logger.csv.save_dir", "logger.csv.name"])
def test_recorded_path_to_write_to_is_refused(entry, value, recorded):
    section, name, key = entry.split(".")
    target = {"callbacks": "src.callbacks.checkpoints.Checkpoints", "logger": "lightning.pytorch.loggers.CSVLogger"}[
        section
    ]
    recorded[section] = {name: {"_target_": target, key: value}}
    with pytest.raises(UserError, match="cannot set where files are written"):
        check_recorded_config(recorded, SOURCE)


@pytest.mark.parametrize("entry", ["callbacks.checkpoints.dirpath", "logger.csv.save_dir"])
def test_recorded_relative_folder_to_write_to_is_refused(entry, recorded):
    section, name, key = entry.split(".")
    recorded[section] = {name: {"_target_": "lightning.pytorch.loggers.CSVLogger", key: "conf/model"}}
    with pytest.raises(UserError, match="cannot set where files are written"):
        check_recorded_config(recorded, SOURCE)
    assert check_recorded_config(recorded, SOURCE, changes=[f"{entry}=conf/model"])


@pytest.mark.parametrize("entity", [["a"], {"a": 1}, 3])
def test_entity_of_invalid_type_is_refused(entity, recorded):
    recorded["logger"] = {"wandb": {"entity": entity}}
    with pytest.raises(UserError, match=r"logger\.wandb\.entity"):
        check_recorded_config(recorded, SOURCE)


def test_only_class_names_are_passed_to_workers(recorded):
    recorded["model"] |= {"_target_": "mine.Net", "not_a_target_": "attacker.Net", "x": {"_target_": None}}
    assert trust.trust_environment(recorded)[trust.TRUST] == "mine.Net"


TRUSTED_OVERRIDES = {
    "folder": "+callbacks.checkpoints.dirpath=/scratch/${seed}",
    "host": "+logger.mine={_target_:mine.Logger,url:'https://own.example/x'}",
    "account": "logger.wandb.entity=team",
}


@pytest.mark.parametrize("override", TRUSTED_OVERRIDES.values(), ids=TRUSTED_OVERRIDES)
def test_record_may_have_the_settings_of_the_command(override, monkeypatch):
    recorded: Any = OmegaConf.to_container(compose([override]), resolve=True)
    assert check_recorded_config(recorded, SOURCE)
    other = OmegaConf.to_container(
        compose(["seed=7", override.replace("own", "other").replace("team", "them")]), resolve=True
    )
    monkeypatch.setenv(trust.TRUSTED_SETTINGS, "")
    workers = trust.trust_environment(recorded)
    monkeypatch.setenv(trust.TRUSTED_SETTINGS, workers[trust.TRUSTED_SETTINGS])
    assert check_recorded_config(recorded, SOURCE)
    with pytest.raises(UserError, match=r"/scratch/7|other\.example|them"):
        check_recorded_config(other, SOURCE)


def test_untrusted_host_is_refused(recorded):
    trust.trust(["lightning.pytorch.loggers"])
    entry = {"_target_": "lightning.pytorch.loggers.WandbLogger", "settings": {"base_url": "http://127.0.0.1:18911"}}
    recorded["logger"] = {"x": entry}
    with pytest.raises(UserError, match=r"--trust-host 127\.0\.0\.1:18911"):
        check_recorded_config(recorded, SOURCE)
    parse_trust_flags(["--trust-host", "127.0.0.1:18911"])
    assert check_recorded_config(recorded, SOURCE)["logger"] == {"x": entry}


def test_other_wandb_account_is_refused(recorded):
    recorded["logger"] = {"wandb": {"entity": "somebody", "project": "p"}}
    with pytest.raises(UserError, match="not known to be yours"):
        check_recorded_config(recorded, SOURCE)


def test_only_the_data_folder_of_the_user_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert writable_data_folder(Path("data")) == Path("data")
    assert writable_data_folder(tmp_path / "elsewhere") == Path("data")
    compose([f"paths.data={tmp_path / 'elsewhere'}"])
    assert writable_data_folder(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    monkeypatch.setenv("GRIDLIGHT_DATA", str(tmp_path / "own"))
    assert writable_data_folder(tmp_path / "other") == tmp_path / "own"


@pytest.mark.parametrize("config", [None, 5, [], {}, "x"])
def test_record_that_is_not_a_mapping_is_refused(config):
    with pytest.raises(UserError, match="this is not a config"):
        check_recorded_config(config, SOURCE)


def test_installed_package_declares_its_modules(tmp_path, monkeypatch):
    """A distribution in the working directory is not installed, so its declarations are ignored."""

    def distribution(root: Path, name: str) -> None:
        info = root / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[gridlight.extensions]\n{name} = {name}.parts\n")

    distribution(tmp_path / "site-packages", "installed")
    distribution(tmp_path / "here", "attacker")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "here"), str(tmp_path / "site-packages"), *sys.path])
    extension_modules.cache_clear()
    try:
        assert is_trusted("installed.parts.Net") and not is_trusted("installed.Net")
        assert not is_trusted("attacker.parts.Net")
    finally:
        extension_modules.cache_clear()


def test_key_that_the_command_replaces_is_not_checked(recorded):
    recorded["callbacks"]["mine"] = {"_target_": "src.callbacks.checkpoints.Checkpoints", "dirpath": "/scratch"}
    with pytest.raises(UserError):
        check_recorded_config(recorded, SOURCE)
    assert check_recorded_config(recorded, SOURCE, changes=["callbacks.mine.dirpath=/scratch"])


def test_callbacks_that_are_not_built_need_no_trust(recorded):
    """A model is evaluated without them. Their keys remain, because averaged weights depend on which callbacks there are."""
    recorded["callbacks"]["mine"] = {"_target_": "theirs.Callback", "file": "/tmp/x"}
    loaded = check_recorded_config(recorded, SOURCE, for_training=False)
    assert loaded["callbacks"].keys() == recorded["callbacks"].keys()
    with pytest.raises(UserError, match=r"theirs\.Callback"):
        check_recorded_config(recorded, SOURCE)


def test_trust_flag_names_the_modules_that_loading_needs(recorded):
    assert trust.trust_flag(recorded) == ""
    recorded["callbacks"]["mine"] = {"_target_": "mine.callbacks.Callback"}
    config = with_target(with_target(recorded, "model", "mine.models.Net"), "optimizer", "mine.optimizers.Fast")
    assert trust.trust_flag(config) == " --trust mine.models,mine.optimizers"


def test_error_names_all_modules_that_need_the_flag(recorded, monkeypatch):
    """Modules that are trusted already are included, because the flag is given once."""
    config = with_target(with_target(recorded, "model", "mine.models.Net"), "optimizer", "mine.optimizers.Fast")
    monkeypatch.setenv(trust.TRUST, "mine.models")
    with pytest.raises(UserError, match=r"add --trust mine\.models,mine\.optimizers or .*trusted now: mine\.models\)"):
        check_recorded_config(config, SOURCE)


def test_hosts_in_the_environment_are_case_insensitive(recorded, monkeypatch):
    recorded["logger"] = {
        "x": {"_target_": "src.loggers.wandb.logger.WeightsAndBiases", "url": "https://Own.example/x"}
    }
    monkeypatch.setenv(trust.TRUST, "src.loggers")
    monkeypatch.setenv(trust.TRUST_HOST, "other.example, OWN.example")
    assert check_recorded_config(recorded, SOURCE)


def test_paths_of_the_command_line_are_not_reported_as_recorded(caplog, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    config = check(compose(["datamodule=table", f"datamodule.path={tmp_path}/a.csv", "datamodule.target_column=y"]))
    trust.log_external_data(config, ["datamodule.path=x"])
    assert not caplog.messages
    trust.log_external_data(config)
    assert f"datamodule.path={tmp_path}/a.csv" in caplog.text


def test_a_link_in_the_working_directory_to_data_outside_is_reported(caplog, tmp_path, monkeypatch):
    inside = tmp_path / "work"
    inside.mkdir()
    (tmp_path / "secret.csv").write_text("x,y\n1,2\n")
    (inside / "a.csv").symlink_to(tmp_path / "secret.csv")
    (inside / "b.csv").write_text("x,y\n1,2\n")
    (inside / "data").symlink_to(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "c.csv").write_text("x,y\n1,2\n")
    monkeypatch.chdir(inside)
    for name, reported in (("a.csv", True), ("b.csv", False), ("data/c.csv", False)):
        caplog.clear()
        trust.log_external_data(
            check(compose(["datamodule=table", f"datamodule.path={name}", "datamodule.target_column=y"]))
        )
        assert ("secret.csv" in caplog.text) == reported and bool(caplog.messages) == reported


def test_error_for_thousands_of_classes_fits_on_one_screen(recorded):
    recorded["model"]["layers"] = {f"a{number}": {"_target_": f"theirs.m{number}.Layer"} for number in range(20_000)}
    with pytest.raises(UserError, match=r"and 19\d+ more") as raised:
        check_recorded_config(recorded, SOURCE)
    assert len(str(raised.value).splitlines()) < 25 and len(str(raised.value)) < 5000


def test_long_key_of_a_recorded_override_is_refused_in_linear_time():
    started = time.process_time()
    with pytest.raises(UserError, match="is refused"):
        check_recorded_overrides(["a" * 100_000 + "!=1"], SOURCE)
    assert time.process_time() - started < 10  # a pattern that backtracks takes much longer
