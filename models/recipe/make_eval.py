"""Makes eval.txt, the text on which wire codecs are compared, from the Rust project's documentation (MIT OR Apache-2.0).
It is material that the model was trained on: it measures codecs against each other, not the model.
usage: make_eval.py RUSTC_SOURCE_TREE eval.txt"""
import os, sys
PARTS = ["compiler/rustc_error_codes/src/error_codes/E0382.md", "compiler/rustc_error_codes/src/error_codes/E0499.md",
         "compiler/rustc_error_codes/src/error_codes/E0502.md", "compiler/rustc_error_codes/src/error_codes/E0277.md",
         "src/doc/book/src/ch04-01-what-is-ownership.md"]
text = "\n".join(open(os.path.join(sys.argv[1], p), encoding="utf-8").read() for p in PARTS)
open(sys.argv[2], "w", encoding="utf-8").write(text[:12000])
