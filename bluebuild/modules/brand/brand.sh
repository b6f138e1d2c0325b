#!/usr/bin/env bash
# The product's names and addresses, from product.toml, which the staged tree carries. BlueBuild hands over the module's
# configuration as the first argument; there is nothing to set.
set -euo pipefail
exec python3 -I "$(dirname "$0")/brand.py"
