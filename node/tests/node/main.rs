//! A node against a scripted coordinator: in-memory link, a clock that the test moves, a real CPU engine on random weights.

mod allocation;
mod conversation;
mod coordinator;
mod hostile;
mod machine;
mod together;
