"""The catalog as one YAML file: `reading` knows YAML, `sections` the tables, `applying` and `exporting` join them."""
