//! A Hugging Face folder as SYN1 sees it: architecture, plan of fused ops, packed shards, tokenizer.
#![forbid(unsafe_code)]

pub mod piece;
pub mod plan;
pub mod spec;
