"""The containers in the synthesized templates, with their environment as CloudFormation would resolve it."""

from typing import Any

from ls4_assets_tests.deploy.conftest import Stacks

# The containers of all processes that read the platform's settings and dagster.yaml.
DAGSTER = ("run", "warm", "code", "daemon", "webserver")


def container(stacks: Stacks, name: str) -> dict[str, Any]:
    """The definition of the container with this name."""
    (definition,) = (
        definition
        for template in stacks
        for task in template.of_type("AWS::ECS::TaskDefinition").values()
        for definition in task["ContainerDefinitions"]
        if definition["Name"] == name
    )
    return definition  # type: ignore[no-any-return]  # templates are untyped JSON


def environment(stacks: Stacks, name: str) -> dict[str, str]:
    """The environment of a container without its secrets. A reference is replaced by the name of its target: the queue's URL by
    the queue's logical id."""
    return {variable["Name"]: resolve(variable["Value"]) for variable in container(stacks, name)["Environment"]}


def resolve(value: Any) -> str:
    match value:
        case str():
            return value
        case {"Ref": str(name)} | {"Fn::ImportValue": str(name)}:
            return name
        case {"Fn::GetAtt": [str(name), str(attribute)]}:
            return f"{name}.{attribute}"
        case {"Fn::Join": [str(separator), list(parts)]}:
            return separator.join(map(resolve, parts))
    raise AssertionError(f"unsupported value in a template: {value}")
