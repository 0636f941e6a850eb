"""The AWS CDK app: `cdk synth` in deploy/ runs `python -m deploy.aws`. deploy/README.md takes an operator through it."""
