//! baresip: a SIP client, a telephone, or the gateway between two halves of a call.
//!
//! It is told what to do by its files and asked how it is over its control port (`ctrl_tcp`: JSON in netstrings). What
//! a call has carried it says when the call is over, in its log; what it has heard it leaves in a file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::accounts::{Account, PHONE_TONE_HERTZ};
use super::{SipTools, address_of_host, logged_command, sound};
use crate::CannotRun;
use crate::lab::Lab;
use crate::process::Process;

const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4444);

/// Where Debian has its modules.
const MODULES: &str = "/usr/lib/baresip/modules";

/// How long it may take to start, to register, and to answer.
const START_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// How long after the end of a call its summary may take to appear.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(3);

/// A running baresip.
pub(super) struct Baresip {
    device: Device,
    registers: bool,
    /// The command that is asked until it is answered.
    readiness: &'static str,
    directory: PathBuf,
    log: PathBuf,
    process: std::sync::Mutex<Process>,
}

/// Packets of one kind of media by a phone's own account.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhoneMedia {
    /// RTP packets sent.
    pub sent_packets: u64,
    /// RTP packets received.
    pub received_packets: u64,
    /// What it encoded with, for example `PCMA 8000Hz 1ch`.
    pub encoder: Option<String>,
    /// What it decoded with.
    pub decoder: Option<String>,
}

/// What a phone says about its last call.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhoneReport {
    /// Its audio.
    pub audio: PhoneMedia,
    /// Its video, if there was any.
    pub video: Option<PhoneMedia>,
    /// Pictures it has shown.
    pub shown_frames: u64,
    /// What the other end has dialled while they talked.
    #[serde(default)]
    pub digits: String,
    /// The frequency of what it has heard, in hertz; `None` for silence.
    pub heard_hertz: Option<u32>,
}

impl PhoneReport {
    /// RTP packets sent, audio and video.
    pub fn sent_packets(&self) -> u64 {
        self.audio.sent_packets + self.video.as_ref().map_or(0, |video| video.sent_packets)
    }

    /// RTP packets received, audio and video.
    pub fn received_packets(&self) -> u64 {
        self.audio.received_packets + self.video.as_ref().map_or(0, |video| video.received_packets)
    }
}

/// How far a call has got at a phone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Audio packets sent.
    pub sent_audio_packets: u64,
    /// Video pictures shown.
    pub shown_frames: u64,
}

/// Whether its modules are where they are looked for.
///
/// # Errors
/// They are not.
pub(super) fn find_modules() -> Result<(), CannotRun> {
    if Path::new(MODULES).join("ctrl_tcp.so").is_file() {
        return Ok(());
    }
    Err(CannotRun::new(
        format!("baresip's modules are not in {MODULES}"),
        "install Debian's package (apt install baresip-core)",
    ))
}

impl Baresip {
    /// Starts it on a node; [`Baresip::wait_until_ready`] then waits for it.
    pub fn start(
        tools: &SipTools,
        lab: &Lab,
        node: &str,
        account: &Account,
        scratch: &Path,
        output: &Path,
    ) -> Result<Baresip> {
        let directory = scratch.join(node);
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        write("config", &configuration(account, address_of_host(lab, node)?, &directory))?;
        write("accounts", &account.lines)?;
        write("contacts", "")?;

        let log = output.join(format!("{node}.log"));
        let mut command = logged_command(&tools.baresip, &log)?;
        command.env_clear().env("HOME", &directory).current_dir(&directory);
        command.arg("-f").arg(&directory).arg("-v");
        let device = lab.device(node)?;
        let process = std::sync::Mutex::new(Process::spawn(device, command)?);
        let readiness = if account.person { "reginfo" } else { "b2bua" };
        Ok(Baresip { device: device.clone(), registers: account.registers, readiness, directory, log, process })
    }

    /// Waits until it can be called: registered, if it has to.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let answer = self.ask(self.readiness).await;
            if answer.is_ok_and(|answer| !self.registers || answer.contains("OK")) {
                return Ok(());
            }
            if let Some(status) = self.process.lock().expect("nobody panics holding a process").exit_status() {
                bail!("a phone ended at once ({status}); see {}", self.log.display());
            }
            if Instant::now() > deadline {
                let patience = START_PATIENCE.as_secs();
                bail!("a phone is not ready after {patience} s; see {}", self.log.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How far its call has got.
    pub async fn progress(&self) -> Result<Progress> {
        Ok(progress(&self.ask("audio_debug").await?, &self.ask("video_debug").await.unwrap_or_default()))
    }

    /// What has been dialled to it, in all its calls.
    pub fn digits(&self) -> Result<String> {
        let text = std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(digits(&String::from_utf8_lossy(&text)))
    }

    /// What its last call came to, once it is over.
    ///
    /// # Errors
    /// It says nothing about it within three seconds.
    pub async fn report(&self, shown_frames: u64) -> Result<PhoneReport> {
        let deadline = Instant::now() + SUMMARY_PATIENCE;
        loop {
            let text = std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
            if let Some(report) = summary(&String::from_utf8_lossy(&text)) {
                let heard_hertz = sound::pitch_of_latest(&self.directory)?;
                return Ok(PhoneReport { shown_frames, heard_hertz, ..report });
            }
            if Instant::now() > deadline {
                bail!("the phone does not say what its call came to; see {}", self.log.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, command: &'static str) -> Result<String> {
        let exchange = move |_| async move { timeout(ANSWER_PATIENCE, ask(command)).await.context("no answer")? };
        let answer = self.device.spawn(exchange)?.await?;
        answer.with_context(|| format!("{command}: see {}", self.log.display()))
    }
}

/// One command on a connection of its own. Events that come in between are passed over.
async fn ask(command: &str) -> Result<String> {
    let mut stream = TcpStream::connect(CONTROL).await?;
    let message = json!({ "command": command }).to_string();
    stream.write_all(format!("{}:{message},", message.len()).as_bytes()).await?;
    loop {
        let mut length = 0_usize;
        loop {
            match stream.read_u8().await? {
                digit @ b'0'..=b'9' if length < 1_000_000 => length = length * 10 + usize::from(digit - b'0'),
                b':' => break,
                other => bail!("byte {other} in the length of a netstring"),
            }
        }
        let mut message = vec![0; length + 1];
        stream.read_exact(&mut message).await?;
        let message: Value = serde_json::from_slice(&message[..length]).context("the answer is not JSON")?;
        if message["response"] == true {
            if message["ok"] != true {
                bail!("refused: {}", message["data"]);
            }
            return Ok(message["data"].as_str().unwrap_or_default().to_owned());
        }
    }
}

fn configuration(account: &Account, address: Ipv4Addr, directory: &Path) -> String {
    let mut modules = vec!["turn.so"];
    let codecs: Vec<String> = account.codecs.iter().map(|codec| format!("{codec}.so")).collect();
    modules.extend(codecs.iter().map(String::as_str));
    modules.push("aubridge.so");
    let devices = if account.person {
        modules.extend(["ausine.so", "sndfile.so"]);
        format!(
            "audio_source ausine,{PHONE_TONE_HERTZ}\naudio_player aubridge,ear\naudio_alert aubridge,bell\n\
                 ausrc_srate 48000\nausrc_channels 2\n"
        )
    } else {
        "audio_source aubridge,nil\naudio_player aubridge,nil\naudio_alert aubridge,nil\n".to_owned()
    };
    let video = if account.video {
        modules.extend(["vp8.so", "fakevideo.so"]);
        "video_source fakevideo,nil\nvideo_display fakevideo,nil\n\
         video_size 320x240\nvideo_bitrate 400000\nvideo_fps 15\n"
    } else {
        ""
    };
    let modules: String = modules.iter().map(|module| format!("module {module}\n")).collect();
    // The menu answers calls; between two halves of a call the bridge does.
    let application = if account.person { "menu.so" } else { "b2bua.so" };
    format!(
        "poll_method epoll\nsip_listen {address}:5060\ncall_max_calls 4\ncall_local_timeout 60\n\
         {devices}ausrc_format s16\nauplay_format s16\nauenc_format s16\naudec_format s16\n{video}\
         rtcp_mux no\njitter_buffer_delay 5-10\nrtp_stats yes\nsnd_path {directory}\nringback_disabled yes\n\
         statmode_default off\n\
         module_path {MODULES}\n{modules}module_tmp account.so\n\
         module_app ctrl_tcp.so\nmodule_app {application}\nctrl_tcp_listen {CONTROL}\n",
        directory = directory.display(),
    )
}

fn progress(audio: &str, video: &str) -> Progress {
    let after = |text: &str, mark: &str| {
        let rest = text.split_once(mark)?.1;
        rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    };
    let shown = video.lines().find(|line| line.trim_start().starts_with("vidisp:"));
    Progress {
        sent_audio_packets: after(audio, "TX: packets=").unwrap_or(0),
        shown_frames: shown.and_then(|line| after(line, "frames=")).unwrap_or(0),
    }
}

/// What has been dialled by what the log says. Each digit has a beginning and an end.
fn digits(log: &str) -> String {
    let event = |line: &str| {
        let (digit, end) = line.split_once("received event: '")?.1.split_once("' (end=")?;
        end.starts_with('0').then(|| digit.to_owned())
    };
    log.lines().filter_map(event).collect()
}

/// What the log says about the last call, if it is over.
fn summary(log: &str) -> Option<PhoneReport> {
    let (before, after) = log.rsplit_once(" terminated (duration:")?;
    // Where the call before this one ended.
    let call = before.rsplit_once(" terminated (duration:").map_or(before, |(_, call)| call);
    let codec = |mark: &str| {
        let line = call.lines().rev().find_map(|line| line.split_once(mark));
        line.map(|(_, codec)| codec.split(" (").next().unwrap_or(codec).trim().to_owned())
    };
    let table = |name: &str| {
        let mut lines =
            after.lines().skip_while(|line| !(line.starts_with(name) && line.contains("Transmit:"))).skip(1);
        let mut counts = lines.next()?.strip_prefix("packets:")?.split_ascii_whitespace();
        Some((counts.next()?.parse().ok()?, counts.next()?.parse().ok()?))
    };
    let media = |name: &str, encoder: &str, decoder: &str| {
        let (sent_packets, received_packets) = table(name)?;
        Some(PhoneMedia { sent_packets, received_packets, encoder: codec(encoder), decoder: codec(decoder) })
    };
    Some(PhoneReport {
        audio: media("audio", "Set audio encoder:", "Set audio decoder:")?,
        video: media("video", "Set video encoder:", "Set video decoder:"),
        digits: digits(call),
        ..PhoneReport::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As printed by baresip 1.0.0 at the end of a call.
    const LOG: &str = "audio: Set audio decoder: opus 48000Hz 2ch\naudio: Set audio encoder: opus 48000Hz 2ch\n\
        Set video encoder: VP8  (400000 bit/s, 15.00 fps)\nSet video decoder: VP8 \n\
        sip:phone-s@sip.lab: Call with sip:browser-m@sip.lab terminated (duration: 10 secs)\n\
        audio: destroyed (started=1)\n\n\
        audio           Transmit:     Receive:\npackets:            502          497\n\
        avg. bitrate:      99.6         64.5  (kbit/s)\n\n\
        video           Transmit:     Receive:\npackets:            302          316\n";

    #[test]
    fn the_summary_of_a_call_is_read_once_it_is_there() {
        let report = summary(LOG).unwrap();
        let video = report.video.clone().unwrap();
        assert_eq!((report.audio.sent_packets, report.audio.received_packets), (502, 497));
        assert_eq!((video.sent_packets, video.received_packets), (302, 316));
        assert_eq!(report.audio.decoder.as_deref(), Some("opus 48000Hz 2ch"));
        assert_eq!((video.encoder.as_deref(), video.decoder.as_deref()), (Some("VP8"), Some("VP8")));
        assert_eq!(report.sent_packets(), 804);
        assert_eq!(summary(&LOG[..LOG.find("audio           ").unwrap()]), None);
    }

    #[test]
    fn the_last_call_counts() {
        let second = LOG.replace("opus 48000Hz 2ch", "PCMA 8000Hz 1ch").replace("497", "11");
        let second = &second[..second.find("video           ").unwrap()].replace("Set video", "video");
        let report = summary(&[LOG, second].concat()).unwrap();
        assert_eq!((report.audio.received_packets, report.video), (11, None));
        assert_eq!(report.audio.encoder.as_deref(), Some("PCMA 8000Hz 1ch"));
    }

    #[test]
    fn digits_count_once_and_per_call() {
        let dialled = "received event: '5' (end=0)\nreceived event: '5' (end=1)\nreceived event: '#' (end=0)\n";
        assert_eq!(digits(dialled), "5#");
        assert_eq!(summary(&[dialled, LOG].concat()).unwrap().digits, "5#");
        assert_eq!(summary(&[dialled, LOG, LOG].concat()).unwrap().digits, "");
    }

    #[test]
    fn progress_is_read_from_what_it_says_about_its_streams() {
        let audio = "----- RTCP Session: -----\n  cname= SSRC=0x1/1 rx=8000Hz\n  TX: packets=146, octets=23360\n";
        let video = " tx: encode: VP8 yuv420p\n     source: fakevideo 320 x 240, fps=15.00 frames=22\n\
                      rx: decode: VP8 yuv420p\n     vidisp: fakevideo 640 x 360 frames=20\n";
        assert_eq!(progress(audio, video), Progress { sent_audio_packets: 146, shown_frames: 20 });
        assert_eq!(progress("", ""), Progress::default());
    }
}
