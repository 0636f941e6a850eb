"""The AWS CDK app: `cdk synth` in deploy/ runs `python -m deploy.aws`. deploy/README.md has the steps for an operator."""
