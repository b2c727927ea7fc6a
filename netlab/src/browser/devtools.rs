//! Chromium's DevTools protocol over the pipe it offers on file descriptors 3 and 4.
//!
//! Only commands and their answers; events are read and forgotten. Messages end in a zero byte. Because Chromium ends
//! when the pipe does, a lab that dies takes its browsers with it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

type Waiting = Arc<Mutex<HashMap<u64, mpsc::Sender<Value>>>>;

/// A connection to one browser.
pub struct DevTools {
    commands: Mutex<(u64, PipeWriter)>,
    waiting: Waiting,
}

impl DevTools {
    /// Takes over our ends of the pipes.
    pub fn new(commands: PipeWriter, answers: PipeReader) -> DevTools {
        let waiting = Waiting::default();
        let readers = Arc::clone(&waiting);
        std::thread::spawn(move || read_answers(answers, &readers));
        DevTools { commands: Mutex::new((0, commands)), waiting }
    }

    /// A PNG of the browser's only page as it is now.
    ///
    /// # Errors
    /// The browser does not answer, or has no page.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        let targets = self.call(None, "Target.getTargets", json!({}))?;
        let targets = targets["targetInfos"].as_array().context("no list of targets")?;
        let page = targets.iter().find(|target| target["type"] == "page").context("the browser has no page")?;
        let attachment = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attachment)?;
        let session = attached["sessionId"].as_str().context("cannot attach to the page")?;
        let picture = self.call(Some(session), "Page.captureScreenshot", json!({ "format": "png" }))?;
        let encoded = picture["data"].as_str().context("no picture in the answer")?;
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(encoded).context("the picture is not base64")
    }

    fn call(&self, session: Option<&str>, method: &str, parameters: Value) -> Result<Value> {
        let (answer, answered) = mpsc::channel();
        {
            let mut commands = self.commands.lock().expect("no command panics while writing");
            commands.0 += 1;
            let mut message = json!({ "id": commands.0, "method": method, "params": parameters });
            if let Some(session) = session {
                message["sessionId"] = session.into();
            }
            self.waiting.lock().expect("the reader does not panic").insert(commands.0, answer);
            let mut bytes = message.to_string().into_bytes();
            bytes.push(0);
            commands.1.write_all(&bytes).with_context(|| format!("the browser is gone ({method})"))?;
        }
        let answer = answered
            .recv_timeout(ANSWER_PATIENCE)
            .map_err(|_| anyhow!("the browser does not answer {method} within {} s", ANSWER_PATIENCE.as_secs()))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].clone())
    }
}

fn read_answers(answers: PipeReader, waiting: &Waiting) {
    let mut answers = BufReader::new(answers);
    let mut message = Vec::new();
    while let Ok(1..) = answers.read_until(0, &mut message) {
        let json: Value = serde_json::from_slice(message.strip_suffix(&[0]).unwrap_or(&message)).unwrap_or_default();
        if let Some(id) = json["id"].as_u64()
            && let Some(answer) = waiting.lock().expect("no command panics while waiting").remove(&id)
        {
            let _ = answer.send(json);
        }
        message.clear();
    }
    // The browser is gone: whoever still waits hears so at once.
    waiting.lock().expect("no command panics while waiting").clear();
}
