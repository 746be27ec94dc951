//! The third arm: nodes come, go, and are killed on one swarm that goes on.

use anyhow::{Context, Result, bail};
use syn1_coordinator::server::Server;
use tokio::process::Child;

use super::{ArmReport, Bench, Nodes, PATIENCE, Text, report, take_part};
use crate::progress::CountBar;

/// What happens in mid-text.
#[derive(Clone, Copy)]
enum Event {
    /// SIGKILL for a node of the chain.
    Kill,
    /// Another node joins.
    Join,
    /// SIGKILL for a node of the chain, and its start.
    Restart,
    /// Ctrl-C at a node of the chain.
    Leave,
}

/// In turn; as many come as go.
const EVENTS: [Event; 5] = [Event::Kill, Event::Join, Event::Restart, Event::Leave, Event::Join];

impl Bench<'_> {
    /// One swarm with a spare, through all events.
    pub(super) async fn churn(&self, bar: &CountBar) -> Result<ArmReport> {
        let (server, mut nodes) = self.swarm_with_spare().await?;
        let undisturbed = self.texts(&server, async || Ok(())).await?;
        let expected: Vec<Vec<u32>> = undisturbed.into_iter().map(|text| text.ids).collect();
        let mut disturbed = Vec::new();
        for (count, event) in EVENTS.into_iter().cycle().take(self.args.churn.into()).enumerate() {
            disturbed.push(self.event(&server, &mut nodes, event, count).await?);
            bar.step();
        }
        Ok(report("they come and go", &expected, disturbed))
    }

    /// The texts of all streams while something happens to the node at one place of the chain, or another one joins.
    async fn event(&self, server: &Server, nodes: &mut Nodes, event: Event, count: usize) -> Result<Vec<Text>> {
        let losses = server.recovery().rerouted;
        let texts = self.texts(server, async || match event {
            Event::Kill => take_part(server, nodes, count)?.1.kill().await.context("cannot kill a node"),
            Event::Join => self.join(server, nodes, self.newcomer(count)).await,
            Event::Restart => {
                let (name, mut node) = take_part(server, nodes, count)?;
                node.kill().await.context("cannot kill a node")?;
                self.start(server, nodes, name).await
            }
            Event::Leave => leave(take_part(server, nodes, count)?).await,
        });
        let texts = texts.await?;
        if !matches!(event, Event::Join) && server.recovery().rerouted == losses {
            bail!("the texts were over before anything happened to a node: ask for more --tokens");
        }
        Ok(texts)
    }
}

/// Ctrl-C, and the node's own end.
#[cfg(unix)]
async fn leave((name, mut node): (String, Child)) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = node.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    kill_process(pid.context("a node has ended by itself")?, Signal::INT).context("cannot interrupt a node")?;
    let ended = tokio::time::timeout(PATIENCE, node.wait()).await;
    ended.with_context(|| format!("{name} does not end within {} s of Ctrl-C", PATIENCE.as_secs()))??;
    Ok(())
}

/// Other systems have no such signal for one process.
#[cfg(not(unix))]
async fn leave((_, mut node): (String, Child)) -> Result<()> {
    node.kill().await.context("cannot end a node")
}
