//! `syn1 code` and `syn1 quarantine`: what a coordinator's owner changes while it runs, over its HTTP port.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use syn1_identity::Key;

use crate::interrupt::blocking;
use crate::show;

/// Where the coordinator is, and the right to change it.
#[derive(clap::Args)]
struct At {
    /// The coordinator's HTTP address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7780", global = true)]
    at: String,
    /// The coordinator's admin key, where it has one; without one it listens to its own machine only
    #[arg(long, value_name = "KEY", env = "SYN1_ADMIN_KEY", hide_env_values = true, global = true)]
    admin_key: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// Options of `syn1 code`.
#[derive(clap::Args)]
#[command(after_help = "\
A code lets nodes in until it expires; a node that came in by it may come back later, unless the code was revoked.
Codes are kept when the coordinator is started again. Which one its link shows: syn1 code list")]
pub(crate) struct CodeArgs {
    #[command(subcommand)]
    command: CodeCommand,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Subcommand)]
enum CodeCommand {
    /// Show the codes that let nodes in, and for how long.
    List,
    /// Make one more.
    New {
        /// Hours that it lasts
        #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..))]
        hours: u16,
    },
    /// Take one back: nobody comes in by it any more, nor comes back who came in by it.
    Revoke {
        /// The code, with or without its dash
        code: String,
    },
}

/// Options of `syn1 quarantine`.
#[derive(clap::Args)]
#[command(after_help = "\
A node is quarantined when it computed something else than two others that were given the same: its key is not let in
again, over restarts too. Release it when its machine is mended.")]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Subcommand)]
enum QuarantineCommand {
    /// Show who is kept out, and what shows that it computed garbage.
    List,
    /// Let a node in again.
    Release {
        /// Its key, as `list` shows it
        key: Key,
    },
}

pub(crate) async fn code(args: CodeArgs) -> Result<()> {
    let CodeArgs { command, at } = args;
    let as_json = at.json;
    let answer = match &command {
        CodeCommand::List => at.ask("GET", "codes", None).await?,
        CodeCommand::New { hours } => at.ask("POST", "codes", Some(json!({ "hours": hours }))).await?,
        CodeCommand::Revoke { code } => {
            if !code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                bail!("{code:?} is no join code: letters, digits and a dash are");
            }
            at.ask("DELETE", &format!("codes/{code}"), None).await?
        }
    };
    if as_json {
        return Ok(show::out(&format!("{answer}\n"))?);
    }
    let text = match command {
        CodeCommand::List => codes(&answer),
        CodeCommand::New { .. } => format!("{}\n", answer["url"].as_str().unwrap_or_default()),
        CodeCommand::Revoke { code } => format!("{code} lets nobody in any more\n"),
    };
    Ok(show::out(&text)?)
}

pub(crate) async fn quarantine(args: QuarantineArgs) -> Result<()> {
    let QuarantineArgs { command, at } = args;
    let as_json = at.json;
    let answer = match &command {
        QuarantineCommand::List => at.ask("GET", "quarantine", None).await?,
        QuarantineCommand::Release { key } => at.ask("DELETE", &format!("quarantine/{key}"), None).await?,
    };
    if as_json {
        return Ok(show::out(&format!("{answer}\n"))?);
    }
    let text = match command {
        QuarantineCommand::List => kept_out(&answer),
        QuarantineCommand::Release { key } => format!("{key} may join again\n"),
    };
    Ok(show::out(&text)?)
}

impl At {
    /// Asks the coordinator.
    async fn ask(self, method: &'static str, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("{}/api/admin/{path}", self.at.trim_end_matches('/'));
        let key = self.admin_key;
        blocking(move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
            let agent: ureq::Agent = config.build().into();
            let mut request = ureq::http::Request::builder().method(method).uri(&url);
            if let Some(key) = &key {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let text = body.map_or_else(String::new, |body| body.to_string());
            let request = request.header("content-type", "application/json").body(text)?;
            let mut response = agent.run(request).with_context(|| {
                format!("no coordinator answers at {url}: is it running, and is --at its HTTP address?")
            })?;
            let status = response.status();
            let text = response.body_mut().read_to_string()?;
            let answer: Value = serde_json::from_str(&text)
                .with_context(|| format!("{url} answered HTTP {status} with something else than JSON"))?;
            if !status.is_success() {
                let why = answer["error"]["message"].as_str().unwrap_or("the coordinator refused");
                bail!("{why}{}", if status == 401 { ": here that is --admin-key KEY" } else { "" });
            }
            Ok(answer)
        })
        .await
    }
}

fn codes(answer: &Value) -> String {
    let list = answer.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        return String::from("no code: nodes need none here, or the last one has expired\n");
    }
    let mut text = format!("{:14} {:>10} {:>8}\n", "code", "expires in", "nodes");
    for code in list {
        let minutes = code["expires_s"].as_u64().unwrap_or_default() / 60;
        let left = format!("{} h {:02} min", minutes / 60, minutes % 60);
        let shown = if code["shown"] == true { "  in the link that the coordinator shows" } else { "" };
        text += &format!("{:14} {left:>10} {:>8}{shown}\n", code["code"].as_str().unwrap_or_default(), code["members"]);
    }
    text
}

fn kept_out(answer: &Value) -> String {
    let list = answer.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        return String::from("nobody is quarantined\n");
    }
    let line = |kept: &Value| {
        let found = &kept["evidence"];
        format!(
            "{}  {}: layers {}..{} of request {} at position {}, {:.3} apart where {:.3} is possible\n",
            kept["key"].as_str().unwrap_or_default(),
            kept["name"].as_str().unwrap_or_default(),
            found["layers"][0],
            found["layers"][1],
            found["request"],
            found["position"],
            found["error"].as_f64().unwrap_or(f64::NAN),
            found["allowed"].as_f64().unwrap_or(f64::NAN)
        )
    };
    list.iter().map(line).collect()
}

/// A coordinator answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_say_what_there_is_and_that_there_is_nothing() {
        let answer = json!([{ "code": "ABCD-EFGH", "expires_s": 3700, "shown": true, "members": 2 }]);
        let text = codes(&answer);
        assert!(text.contains("ABCD-EFGH") && text.contains("1 h 01 min") && text.contains("in the link"), "{text}");
        assert!(codes(&json!([])).starts_with("no code") && kept_out(&json!([])).starts_with("nobody"));
        let evidence = json!({ "layers": [2, 4], "request": 7, "position": 31, "error": 0.5, "allowed": 0.02 });
        let text = kept_out(&json!([{ "key": "k", "name": "laptop", "at": 1, "evidence": evidence }]));
        assert!(text.contains("laptop: layers 2..4 of request 7 at position 31, 0.500 apart"), "{text}");
    }
}
