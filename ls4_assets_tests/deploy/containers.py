"""Containers as the synthesised templates describe them, and what CloudFormation would make of their environment."""

from typing import Any

from ls4_assets_tests.deploy.conftest import Stacks

# By the names of their containers: every process that reads the platform's settings and dagster.yaml.
DAGSTER = ("run", "code", "daemon", "webserver")


def container(stacks: Stacks, name: str) -> dict[str, Any]:
    """The definition of the one container of this name."""
    (found,) = (
        each
        for template in stacks
        for task in template.of_type("AWS::ECS::TaskDefinition").values()
        for each in task["ContainerDefinitions"]
        if each["Name"] == name
    )
    return found  # type: ignore[no-any-return]


def environment(stacks: Stacks, name: str) -> dict[str, str]:
    """What the container of this name finds in its environment, but for its secrets. A reference stands as the name of what it
    refers to: the queue's URL as the queue's logical id."""
    return {each["Name"]: resolved(each["Value"]) for each in container(stacks, name)["Environment"]}


def resolved(value: Any) -> str:
    match value:
        case str():
            return value
        case {"Ref": str(name)} | {"Fn::ImportValue": str(name)}:
            return name
        case {"Fn::GetAtt": [str(name), str(attribute)]}:
            return f"{name}.{attribute}"
        case {"Fn::Join": [str(between), list(parts)]}:
            return between.join(map(resolved, parts))
    raise AssertionError(f"unknown in a template: {value}")
