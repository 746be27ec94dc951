//! A tab over HTTPS with the certificate that the coordinator made: trusted because its user installed the authority, as on
//! a phone, and by a name that only HTTPS makes a place for WebGPU.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{begin, ready};
use crate::browser::{Browser, Gpu, View};
use crate::setup;
use crate::swarm::{Coordinator, Golden, PATIENCE};

/// Says whether there was what it takes.
pub(super) fn check(golden: &Golden) -> Result<bool> {
    if !setup::certutil()? {
        return Ok(false);
    }
    let options = ["--nodes", "2", "--tls", "auto", "--join-code", "RIVERLAMP", "--host", NAME];
    let coordinator = Coordinator::with(&options)?;
    let (_, port) = coordinator.http().rsplit_once(':').context("the coordinator named no port")?;
    let secure = |path: &str| format!("https://{NAME}:{port}{path}");
    // By plain HTTP comes what a device needs before it trusts, and nothing else.
    let (head, authority) = plain(coordinator.http(), port, "/ca.crt")?;
    ensure!(head.starts_with("HTTP/1.1 200") && authority.contains("BEGIN CERTIFICATE"), "/ca.crt: {head}");
    let (head, _) = plain(coordinator.http(), port, "/join")?;
    let moved = head.starts_with("HTTP/1.1 308") && head.contains(&format!("location: {}", secure("/join")));
    ensure!(moved, "plain HTTP is not sent to https: {head}");

    let found = format!("--host-resolver-rules=MAP {NAME} 127.0.0.1");
    let stranger = Browser::with(Gpu::None, &[&found], None)?;
    let warned = stranger.open(&secure("/join"), View::PHONE).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(warned.contains("ERR_CERT_AUTHORITY_INVALID"), "a browser that trusts nobody here says: {warned:?}");
    drop(stranger);

    let browser = Browser::with(Gpu::Software, &[&found], Some(&authority))?;
    let page = browser.open(&format!("http://{NAME}:{port}/join"), View::PHONE)?;
    let place = page.eval("[location.href, isSecureContext]")?;
    ensure!(place == json!([secure("/join"), true]), "the join page is {place}");
    let support = page.eval("import('/web/syn1.js').then(({ support }) => support())")?;
    ensure!(support["webgpu"] == json!(true), "over https: {support}");
    begin(&page, &json!({ "name": "tab", "device": "cpu", "code": "RIVERBANK" }))?;
    page.wait_for("events.at(-1)?.event === 'stopped'", PATIENCE)?;
    let refused = page.eval("events.at(-1).cause")?;
    ensure!(refused.as_str().is_some_and(|cause| cause.contains("code")), "a wrong code over wss: {refused}");
    begin(&page, &json!({ "name": "tab", "device": "cpu", "code": "RIVERLAMP" }))?;
    // Its link by tcp carries no join code.
    let file = tempfile::NamedTempFile::new().context("cannot make a file for the authority's certificate")?;
    fs::write(&file, &authority).context("cannot write an authority's certificate")?;
    let trusting: [&OsStr; 2] = ["--tls-ca".as_ref(), file.path().as_os_str()];
    let join = format!("https://127.0.0.1:{port}/join#RIVERLAMP");
    let _native = coordinator.native_by(&join, "native", "cpu", &trusting)?;
    ready(&page)?;
    let joined = page.eval("events.find(e => e.event === 'connecting').join")?;
    ensure!(joined == json!(format!("wss://{NAME}:{port}/node")), "the tab joined by {joined}");
    coordinator.wait_ready(&page)?;
    golden.cases[2].check(&page)?;
    println!(
        "over https with the coordinator's own authority, beside a native node that trusts it too, the text is golden; {refused}"
    );
    Ok(true)
}

/// Head and body of what a program that speaks no TLS is answered.
fn plain(address: &str, port: &str, path: &str) -> Result<(String, String)> {
    let mut link = TcpStream::connect(address).with_context(|| format!("nobody is at {address}"))?;
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {NAME}:{port}\r\nconnection: close\r\n\r\n");
    link.write_all(ask.as_bytes())?;
    let mut answer = String::new();
    link.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Not localhost: that would be a secure place without HTTPS.
const NAME: &str = "syn1.test";
