"""cluster.yaml by Ray's own schema and loader, docs/kuberay.yaml by KubeRay's published fields."""

import copy
import re
import shlex
from pathlib import Path

import boto3
import pytest
import ray
import typer
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from stillhouse import load_experiment
from stillhouse.search.cli.app import app
from stillhouse.search.cli.options import parse_overrides

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
MANIFESTS = list(yaml.safe_load_all((ROOT / "docs/kuberay.yaml").read_text(encoding="utf-8")))
COMMANDS = [
    command for name, told in CLUSTER.items() if name.endswith("commands") for command in told
]


def prepared():
    return prepare_config(copy.deepcopy(CLUSTER))


# Ray's cluster launcher


def test_the_launcher_takes_the_file():
    validate_config(prepared())


def test_the_launcher_would_refuse_a_field_it_does_not_know():
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config({**prepared(), "max_worker": 3})


def test_gpu_workers_come_from_nothing_spot_first_and_the_head_has_no_gpu():
    config = prepared()
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["max_workers"] == 0
    assert head["resources"].get("GPU", 0) == head["resources"]["CPU"] == 0
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in types.values())
    assert all(kind["resources"]["GPU"] >= 1 for kind in types.values())
    spot = ["InstanceMarketOptions" in kind["node_config"] for kind in types.values()]
    assert spot == [True, False]
    assert max(kind["max_workers"] for kind in types.values()) <= config["max_workers"]


def test_only_what_is_there_is_copied():
    """Ray makes a digest of all that is copied: never the whole checkout with its environment."""
    local = {told for told in CLUSTER["file_mounts"].values() if not told.startswith("~")}
    assert all((ROOT / path).exists() for path in local)
    assert {
        "stillhouse",
        "search",
        "methods",
        "spaces",
        "pyproject.toml",
        "constraints.txt",
    } <= local
    assert "." not in local


def test_every_machine_installs_the_pinned_set_from_the_checkout():
    config = prepared()
    for kind in ("head", "worker"):
        (line,) = [told for told in config[f"{kind}_setup_commands"] if "pip install" in told]
        words = shlex.split(line)
        assert words[words.index("-c") + 1] == "$HOME/stillhouse/constraints.txt"
        assert words[-2:] == ["-e", "$HOME/stillhouse[cluster,compress]"]
        for path in ("pyproject.toml", "constraints.txt"):
            assert f"~/stillhouse/{path}" in config["file_mounts"]


def test_ray_in_the_manifests_is_the_pinned_one():
    (pinned,) = [
        line.removeprefix("ray==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("ray==")
    ]
    assert MANIFESTS[0]["spec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (ROOT / "docs/kuberay.yaml").read_text(encoding="utf-8")
    assert ray.__version__ == pinned


def test_nothing_listens_beyond_the_machine_but_ray_and_ray_asks_for_a_token():
    starts = [command for command in COMMANDS if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in starts[0]
    (mlflow,) = [command for command in COMMANDS if "mlflow server" in command]
    assert "--host 127.0.0.1" in mlflow
    assert "0.0.0.0" not in " ".join(COMMANDS)
    assert "security_group" not in CLUSTER["provider"]  # Ray's own: ssh, and each other
    (database,) = [word for word in shlex.split(mlflow) if word.startswith("postgresql")]
    assert database == "postgresql+psycopg://ubuntu@/mlflow?host=/var/run/postgresql"


def test_ray_opens_ssh_to_the_outside_and_nothing_else(tmp_path, monkeypatch):
    """Ray prepares the file for AWS, which moto plays; what it makes there is looked at."""
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # where the key is written
    with moto.mock_aws():
        ready = bootstrap_aws(prepared())
        (group,) = {
            group
            for kind in ready["available_node_types"].values()
            for group in kind["node_config"]["SecurityGroupIds"]
        }
        ec2 = boto3.client("ec2", region_name=ready["provider"]["region"])
        rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    outside = [rule for rule in rules if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]
    within = [rule for rule in rules if rule not in outside]
    assert [pair["GroupId"] for rule in within for pair in rule["UserIdGroupPairs"]] == [group]


def test_lines_to_change_are_marked():
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    for told in ("region:", "max_workers: 16", "InstanceType: g6", "stillhouse-worker}"):
        found = [line for line in lines if told in line]
        assert found
        assert all("CHANGE" in line for line in found), found
    assert "CHANGE s3://BUCKET" in text


# KubeRay: fields of ray.io/v1 in the published custom resource definitions, as far as used here.
# A name maps to its type, or to the fields below it; `pod` is Kubernetes' own PodTemplateSpec.

CONTAINER = {
    "name": str,
    "image": str,
    "imagePullPolicy": str,
    "env": [{"name": str, "value": str, "valueFrom": dict}],
    "resources": {"requests": {str: str}, "limits": {str: str}},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
    "ports": [{"containerPort": int, "name": str}],
    "securityContext": dict,
}
POD = {
    "metadata": dict,
    "spec": {
        "serviceAccountName": str,
        "nodeSelector": {str: str},
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
        "containers": [CONTAINER],
        "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": dict}],
    },
}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": str,
        "idleTimeoutSeconds": int,
        "upscalingMode": str,
        "resources": dict,
        "image": str,
        "env": list,
    },
    "headServiceAnnotations": {str: str},
    "gcsFaultToleranceOptions": dict,
    "suspend": bool,
    "managedBy": str,
    "headGroupSpec": {
        "serviceType": str,
        "headService": dict,
        "enableIngress": bool,
        "rayStartParams": {str: str},
        "template": POD,
    },
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "idleTimeoutSeconds": int,
            "numOfHosts": int,
            "suspend": bool,
            "rayStartParams": {str: str},
            "scaleStrategy": {"workersToDelete": [str]},
            "template": POD,
        }
    ],
}
RAY_JOB = {
    "entrypoint": str,
    "clusterSelector": {str: str},
    "submissionMode": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "submitterPodTemplate": POD,
    "submitterConfig": {"backoffLimit": int},
    "metadata": {str: str},
    "rayClusterSpec": RAY_CLUSTER,
}


def misfits(told, published, place=""):
    """Where ``told`` is not as ``published`` says."""
    if isinstance(published, list):
        if not isinstance(told, list):
            return [place]
        return [
            x for i, one in enumerate(told) for x in misfits(one, published[0], f"{place}[{i}]")
        ]
    if isinstance(published, dict):
        if not isinstance(told, dict):
            return [place]
        anything = published.get(str)
        return [
            x
            for key, value in told.items()
            for x in (
                misfits(value, anything or published[key], f"{place}.{key}")
                if anything or key in published
                else [f"{place}.{key}"]
            )
        ]
    return [] if type(told) is published else [place]


@pytest.mark.parametrize(
    ("told", "kind", "published"),
    list(zip(MANIFESTS, ("RayCluster", "RayJob"), (RAY_CLUSTER, RAY_JOB), strict=True)),
    ids=("RayCluster", "RayJob"),
)
def test_a_manifest_has_published_fields_only(told, kind, published):
    assert (told["apiVersion"], told["kind"]) == ("ray.io/v1", kind)
    assert misfits(told["spec"], published) == []


def test_a_misspelt_field_or_a_wrong_type_would_be_found():
    spec = copy.deepcopy(MANIFESTS[0]["spec"])
    spec["workerGroupSpecs"][1]["maxReplica"] = 3
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    assert misfits(spec, RAY_CLUSTER) == [
        ".headGroupSpec.rayStartParams.num-cpus",
        ".workerGroupSpecs[1].maxReplica",
    ]


def test_what_kuberay_requires_is_there():
    spec = MANIFESTS[0]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {"rayStartParams", "template"} <= group.keys()
        assert len(group["template"]["spec"]["containers"]) == 1
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "minReplicas", "maxReplicas"} <= group.keys()
        assert group["minReplicas"] == 0 < group["maxReplicas"]
    assert spec["authOptions"]["mode"] in ("token", "disabled")
    assert spec["autoscalerOptions"]["version"] in ("v1", "v2")
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    job = MANIFESTS[1]["spec"]
    assert job["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert job["clusterSelector"] == {"ray.io/cluster": MANIFESTS[0]["metadata"]["name"]}


def test_the_search_of_the_job_is_one():
    words = shlex.split(MANIFESTS[1]["spec"]["entrypoint"])
    assert words[:2] == ["stillhouse", "launch"]
    assert (ROOT / words[2].removeprefix("stillhouse/")).exists()
    assert words[3:5] == ["--address", "auto"]


# docs/cluster.md

GUIDE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
SHOWN = re.sub(r"\\\n\s*", "", "\n".join(re.findall(r"^    (.*)$", GUIDE, flags=re.MULTILINE)))


def test_the_guide_names_commands_and_options_that_exist():
    """Of Ray's command line, and of this one."""
    named = re.findall(r"^(?:ray) ([a-z-]+)(.*)$", SHOWN, flags=re.MULTILINE)
    assert {"up", "exec", "attach", "rsync-down", "down", "dashboard"} <= {
        name for name, _ in named
    }
    for name, rest in named:
        known = {option for param in ray_cli.commands[name].params for option in param.opts}
        own = re.sub(r"'.*'", "", rest)
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", own)) <= known, (name, rest)
    stillhouse = typer.main.get_command(app)
    for name, rest in re.findall(r"'stillhouse ([a-z]+)(.*?)'", SHOWN):
        known = {option for param in stillhouse.load_command(name).params for option in param.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= known, (name, rest)


@pytest.mark.parametrize("text", [SHOWN, MANIFESTS[1]["spec"]["entrypoint"]], ids=["guide", "job"])
def test_what_is_launched_is_an_experiment(text):
    commands = re.findall(r"stillhouse launch \S*?(experiments/\S+)( [^'\n]*)", text)
    assert commands
    for file, rest in commands:
        experiment = load_experiment(ROOT / file, parse_overrides(re.findall(r"--set (\S+)", rest)))
        assert experiment.library == "s3://BUCKET/stillhouse"
        assert experiment.tracking.endswith(":5000")
        assert experiment.run.concurrent == 4
