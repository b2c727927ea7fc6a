//! What a topology with phones must have.

use super::{Host, Role, Service};

/// Digits only, as E.164 has them at most (without the plus).
const NUMBER_LENGTH_MAX: usize = 15;

/// Checks that whoever needs a partner has one.
///
/// # Errors
/// The entry and what to add or to change.
pub(super) fn check(hosts: &[Host]) -> Result<(), String> {
    let count = |role| hosts.iter().filter(|host| host.role == role).count();
    for (service, key) in [(Service::Sip, "sip"), (Service::Media, "media"), (Service::Gateway, "gateway")] {
        if count(Role::Server(service)) > 1 {
            return Err(format!("several [[server]] entries have runs = {key:?}; one is enough"));
        }
    }
    let [sip, media, gateway] =
        [Service::Sip, Service::Media, Service::Gateway].map(|service| count(Role::Server(service)) == 1);
    if sip != media {
        return Err("[[server]] entries with runs = \"sip\" and runs = \"media\" need each other: calls between \
                    browsers and phones are set up by the one and pass through the other"
            .to_owned());
    }
    if gateway && !(sip && count(Role::Telephone) == 1) {
        return Err("a [[server]] with runs = \"gateway\" needs one with runs = \"sip\" that calls it, \
                    and exactly one [[phone]] with a number that it calls"
            .to_owned());
    }
    for host in hosts {
        let name = &host.name;
        match (&host.role, &host.number) {
            (Role::SipClient, _) if !sip => {
                return Err(format!("[[phone]] {name:?} needs a [[server]] with runs = \"sip\" for its account"));
            }
            (Role::Telephone, _) if !gateway => {
                return Err(format!("[[phone]] {name:?} has a number and needs a [[server]] with runs = \"gateway\""));
            }
            (Role::Telephone, Some(number)) if !is_number(number) => {
                return Err(format!(
                    "[[phone]] {name:?}: number = {number:?}: use 3 to {NUMBER_LENGTH_MAX} digits, nothing else"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_number(number: &str) -> bool {
    (3..=NUMBER_LENGTH_MAX).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
}
