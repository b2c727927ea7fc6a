//! How Firefox is run: everything is in the profile's `user.js`. No WebDriver: the call page works by itself.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Names it goes by.
pub(super) const NAMES: &[&str] = &["firefox-esr", "firefox"];

/// Where it looks for its certificate store, below its home: in its profile.
pub(super) const TRUST: &str = "profile";

/// Fake devices, granted without asking, and nothing muted. Host addresses as they are, as headless Chromium shows
/// them: `.local` names would need multicast, which does not pass routers.
const CALLS: &[(&str, &str)] = &[
    ("media.navigator.streams.fake", "true"),
    ("media.navigator.permission.disabled", "true"),
    ("media.autoplay.default", "0"),
    ("media.peerconnection.ice.obfuscate_host_addresses", "false"),
];

/// One window with our page in it, and its console in the log.
const WINDOW: &[(&str, &str)] = &[
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.sessionstore.resume_from_crash", "false"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("browser.startup.homepage_override.mstone", r#""ignore""#),
    ("browser.startup.page", "0"),
    ("browser.newtabpage.enabled", "false"),
    ("datareporting.policy.dataSubmissionPolicyBypassNotification", "true"),
    ("termsofuse.bypassNotification", "true"),
    ("devtools.console.stdout.content", "true"),
];

/// No traffic of its own: there is no way out of the lab, and its vain attempts would be on the wire all the same.
const SILENCE: &[(&str, &str)] = &[
    ("app.normandy.enabled", "false"),
    ("app.update.auto", "false"),
    ("app.update.enabled", "false"),
    ("browser.contentblocking.report.lockwise.enabled", "false"),
    ("browser.newtabpage.activity-stream.feeds.system.topstories", "false"),
    ("browser.newtabpage.activity-stream.feeds.topsites", "false"),
    ("browser.newtabpage.activity-stream.telemetry", "false"),
    ("browser.region.network.url", r#""""#),
    ("browser.region.update.enabled", "false"),
    ("browser.safebrowsing.downloads.enabled", "false"),
    ("browser.safebrowsing.malware.enabled", "false"),
    ("browser.safebrowsing.phishing.enabled", "false"),
    ("browser.safebrowsing.blockedURIs.enabled", "false"),
    ("browser.search.update", "false"),
    ("browser.topsites.contile.enabled", "false"),
    ("browser.translations.enable", "false"),
    ("captivedetect.canonicalURL", r#""""#),
    ("datareporting.healthreport.uploadEnabled", "false"),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("datareporting.usage.uploadEnabled", "false"),
    ("doh-rollout.enabled", "false"),
    ("dom.push.connection.enabled", "false"),
    ("extensions.blocklist.enabled", "false"),
    ("extensions.getAddons.cache.enabled", "false"),
    ("extensions.systemAddon.update.enabled", "false"),
    ("extensions.update.enabled", "false"),
    ("geo.enabled", "false"),
    ("identity.fxaccounts.enabled", "false"),
    ("media.gmp-manager.updateEnabled", "false"),
    ("media.gmp-manager.url", r#""""#),
    ("media.gmp-provider.enabled", "false"),
    ("messaging-system.rsexperimentloader.enabled", "false"),
    ("network.captive-portal-service.enabled", "false"),
    ("network.connectivity-service.enabled", "false"),
    ("network.dns.disablePrefetch", "true"),
    ("network.http.speculative-parallel-limit", "0"),
    ("network.prefetch-next", "false"),
    ("network.trr.mode", "5"),
    ("nimbus.rollouts.enabled", "false"),
    ("security.OCSP.enabled", "0"),
    ("security.remote_settings.crlite_filters.enabled", "false"),
    ("security.remote_settings.intermediates.enabled", "false"),
    ("services.settings.server", r#""data:,#off""#),
    ("toolkit.telemetry.archive.enabled", "false"),
    ("toolkit.telemetry.enabled", "false"),
    ("toolkit.telemetry.server", r#""""#),
    ("toolkit.telemetry.unified", "false"),
];

/// Writes the profile's preferences, and adds what Firefox needs to the command.
pub(super) fn prepare(command: &mut Command, home: &Path, url: &str, proxy: Option<&str>) -> Result<()> {
    let profile = home.join("profile");
    let file = profile.join("user.js");
    std::fs::write(&file, preferences(proxy)).with_context(|| format!("cannot write {}", file.display()))?;
    command.args(["--headless", "--no-remote", "--new-instance", "--profile"]).arg(profile).arg(url);
    command.env("MOZ_CRASHREPORTER_DISABLE", "1");
    // Only then is the address of remote settings in the preferences believed.
    command.env("MOZ_REMOTE_SETTINGS_DEVTOOLS", "1");
    Ok(())
}

fn preferences(proxy: Option<&str>) -> String {
    let (host, port) = proxy.and_then(|proxy| proxy.rsplit_once(':')).unwrap_or_default();
    let (kind, host) = (if proxy.is_some() { "1" } else { "0" }, format!("\"{host}\""));
    let proxy = [("network.proxy.type", kind), ("network.proxy.ssl", &host), ("network.proxy.ssl_port", port)];
    let proxy = if kind == "1" { &proxy[..] } else { &proxy[..1] };
    let lines = [CALLS, WINDOW, SILENCE, proxy].concat();
    lines.iter().map(|(name, value)| format!("user_pref(\"{name}\", {value});\n")).collect()
}
