//! The program and the libraries it is made of, all together. One test program: each takes long to build.

mod chats;
mod exact_split;
mod forms;
mod hop;
mod interrupt;
mod kernels;
mod keys;
mod node_loss;
mod openai;
mod pipeline;
mod plain_errors;
mod prefix;
mod program;
mod pull;
mod rebalance;
mod restart;
mod serving;
mod support;
mod swarm_costs;
mod turns;
mod web_nodes;
mod weight_quality;
mod weights;
mod wire_quality;
