#!/usr/bin/env bash
# Build and run the C++ tests twice: AddressSanitizer + UBSan, then ThreadSanitizer.
# BIN: folder with cmake, ninja and ctest (default: those on PATH). BUILD: where to build (default: build/native).
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="${BIN:-}:$PATH"
BUILD="${BUILD:-build/native}"
if ! printf '#include <gtest/gtest.h>\n' | "${CXX:-c++}" -std=c++20 -E -x c++ - >/dev/null 2>&1; then
  echo "test-native: skipped, GoogleTest is not installed (Debian: libgtest-dev)"
  exit 0
fi
for sanitize in address,undefined thread; do
  echo "== C++ tests under $sanitize"
  cmake -S . -B "$BUILD/$sanitize" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DREDRAFT_BINDINGS=OFF \
    -DREDRAFT_TESTS=ON "-DREDRAFT_SANITIZE=$sanitize" >/dev/null
  cmake --build "$BUILD/$sanitize" >"$BUILD/$sanitize.log" 2>&1 || { tail -n 40 "$BUILD/$sanitize.log"; exit 1; }
  ctest --test-dir "$BUILD/$sanitize" --output-on-failure --no-tests=error | tail -n 5
done
