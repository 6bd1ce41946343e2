"""The catalog as one YAML file: `tree` knows YAML, `sections` the tables, `changes` and `export` join them."""
