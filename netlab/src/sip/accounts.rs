//! What each of the lab's baresips is: its accounts, its codecs, what it says.

use anyhow::{Context, Result};

use super::{PASSWORD, SIP_HOST, address_of, address_of_host};
use crate::lab::Lab;
use crate::topology::{Host, Role, Service};
use crate::turn;

/// The tone every phone says, in hertz.
pub(super) const PHONE_TONE_HERTZ: u32 = 440;

/// The tone the page says, in hertz; no harmonic of the other.
pub(super) const PAGE_TONE_HERTZ: u32 = 650;

/// What a baresip is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Lines of its `accounts` file.
    pub lines: String,
    /// Codec modules, the preferred one first.
    pub codecs: &'static [&'static str],
    /// Whether it has a camera and a screen.
    pub video: bool,
    /// Whether it is a person with a microphone and an ear, or a gateway that connects two halves of a call.
    pub person: bool,
    /// Whether it has to register.
    pub registers: bool,
}

/// A SIP client: registers, answers by itself, and reaches the world through the TURN server.
pub(super) fn sip_client(lab: &Lab, name: &str) -> Result<Account> {
    let proxy = address_of(lab, Service::Sip)?;
    let turn = address_of(lab, Service::Turn)?;
    // Addresses, since baresip asks DNS servers only and the lab has none.
    let lines = format!(
        "<sip:{name}@{SIP_HOST}>;auth_user={name};auth_pass={PASSWORD};outbound=\"sip:{proxy}:5060\";regint=60;\
         answermode=auto;medianat=turn;stunserver=\"turn:{turn}:{port}\";stunuser={user};stunpass={password}\n",
        port = turn::PORT,
        user = turn::USER,
        password = turn::PASSWORD,
    );
    Ok(Account { lines, codecs: &["opus", "g711"], video: true, person: true, registers: true })
}

/// A telephone: its number, G.711, nothing to register with.
pub(super) fn telephone(host: &Host) -> Account {
    let number = host.number.as_deref().expect("a checked telephone has a number");
    let lines = format!("<sip:{number}@{SIP_HOST}>;regint=0;answermode=auto;audio_codecs=pcma\n");
    Account { lines, codecs: &["g711"], video: false, person: true, registers: false }
}

/// The gateway: calls that come in go out again to the telephone, decoded and encoded once more.
pub(super) fn gateway(lab: &Lab) -> Result<Account> {
    let telephone = lab.topology().hosts.iter().find(|host| host.role == Role::Telephone);
    let telephone = address_of_host(lab, &telephone.context("there is no telephone behind the gateway")?.name)?;
    let lines = format!(
        "<sip:trunk@{SIP_HOST}>;regint=0;audio_codecs=pcma;b2bua=inbound\n\
         <sip:exchange@{SIP_HOST}>;regint=0;audio_codecs=pcma;b2bua=outbound;outbound=\"sip:{telephone}:5060\"\n"
    );
    Ok(Account { lines, codecs: &["g711"], video: false, person: false, registers: false })
}
