"""Configurations that come with Penstock, as the files they would be."""

from pathlib import Path

FOLDER = Path(__file__).parent
DEEPSEEK = FOLDER / "deepseek.toml"  # with nothing but DEEPSEEK_API_KEY set
SIMULATED = FOLDER / "simulated.toml"  # `up --simulate` without a configuration
DEMO = FOLDER / "demo.toml"
