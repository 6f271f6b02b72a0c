//! Certificates in the lab: a real authority made by `enforcer ca`, and bad ones that it would
//! never issue.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::{Lab, Place, patient, place::program};

/// The trust domain of the lab.
pub const DOMAIN: &str = "example.org";

/// Where daemons of the lab listen for attestation.
pub const ATTEST: &str = "0.0.0.0:9465";

/// The same, for workloads of the daemon's own host.
pub const SERVER: &str = "127.0.0.1:9465";

/// Where they ask for attestation over HTTP.
pub const URL: &str = "https://127.0.0.1:9465/v1/attest";

/// An authority and what it issued.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
}

/// Files of an identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate in PEM.
    pub certificate: PathBuf,
    /// Key in PEM.
    pub key: PathBuf,
    /// Roots in PEM.
    pub bundle: PathBuf,
}

impl Pki {
    /// A new authority.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let folder = lab.folder().join(name);
        let pki = Self { folder };
        pki.ca(&["init", DOMAIN])?;
        Ok(pki)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.join("ca")
    }

    /// The bundle.
    pub fn bundle(&self) -> PathBuf {
        self.folder().join("bundle.pem")
    }

    /// Runs `enforcer ca`.
    pub fn ca(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(program("enforcer")?)
            .arg("ca")
            .args(arguments)
            .arg("--dir")
            .arg(self.folder())
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "enforcer ca {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Issues `spiffe://example.org/PATH` into a folder of that name, with further flags.
    pub fn issue(&self, path: &str, flags: &[&str]) -> Result<Identity> {
        let out = self.folder.join(path.replace('/', "-"));
        let shown = out.to_str().context("a folder's name")?.to_owned();
        let id = format!("spiffe://{DOMAIN}/{path}");
        self.ca(&[&["issue", &id, "--out", &shown], flags].concat())?;
        Ok(Identity {
            certificate: out.join("svid.pem"),
            key: out.join("svid.key"),
            bundle: out.join("bundle.pem"),
        })
    }

    /// Flags of a daemon that attests, with an SVID of its own.
    pub fn daemon_flags(&self, node: &str) -> Result<Vec<String>> {
        let own = self.issue(
            &format!("node/{node}"),
            &["--ip", "127.0.0.1", "--dns", "localhost"],
        )?;
        let text = |path: &Path| path.to_str().context("a path").map(str::to_owned);
        Ok(vec![
            "--attest".to_owned(),
            ATTEST.to_owned(),
            "--svid".to_owned(),
            text(&own.certificate)?,
            "--svid-key".to_owned(),
            text(&own.key)?,
        ])
    }

    /// A leaf that the authority signs although it should not.
    pub fn forge(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Identity> {
        let root = fs::read_to_string(self.folder().join("root.pem"))?;
        let key = KeyPair::from_pem(&fs::read_to_string(self.folder().join("root.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&root, key)?;
        let mut params = leaf("web")?;
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        self.write(name, &certificate, &key)
    }

    /// Files of a certificate that comes from elsewhere.
    pub fn write(&self, name: &str, certificates: &str, key: &KeyPair) -> Result<Identity> {
        let out = self.folder.join(name);
        fs::create_dir_all(&out)?;
        let identity = Identity {
            certificate: out.join("svid.pem"),
            key: out.join("svid.key"),
            bundle: self.bundle(),
        };
        fs::write(&identity.certificate, certificates)?;
        fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

/// Parameters of a good leaf, valid for a long time.
pub fn leaf(path: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://{DOMAIN}/{path}").try_into()?,
    )];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

impl Identity {
    /// Serial number, in hexadecimal.
    pub fn serial(&self) -> Result<String> {
        let output = Command::new(program("enforcer")?)
            .args(["identity", "show", "--output", "json"])
            .arg(&self.certificate)
            .output()?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let serial = shown["serial"].as_str().context("no serial number")?;
        Ok(serial.to_owned())
    }

    /// `enforcer attest --once` from a place; further flags.
    pub fn attest(&self, place: &Place, server: &str, flags: &[&str]) -> Result<Output> {
        let mut command = self.attest_command(place, server)?;
        Ok(command.arg("--once").args(flags).output()?)
    }

    /// `enforcer attest`, to be started.
    pub fn attest_command(&self, place: &Place, server: &str) -> Result<Command> {
        let mut command = place.command(program("enforcer")?)?;
        command
            .args(["attest", "--server", server, "--timeout"])
            .arg(format!("{}s", patient(Duration::from_secs(5)).as_secs()))
            .args([OsStr::new("--svid"), self.certificate.as_os_str()])
            .args([OsStr::new("--svid-key"), self.key.as_os_str()])
            .args([OsStr::new("--bundle"), self.bundle.as_os_str()])
            .stdin(Stdio::null());
        Ok(command)
    }

    /// curl with the certificate from a place; the status and the body.
    pub fn curl(&self, place: &Place, url: &str, flags: &[&str]) -> Result<(u16, String)> {
        let output = place
            .command("curl")?
            .args(["--silent", "--show-error", "--max-time", "20"])
            .args(["--write-out", "\n%{http_code}"])
            .args([OsStr::new("--cert"), self.certificate.as_os_str()])
            .args([OsStr::new("--key"), self.key.as_os_str()])
            .args([OsStr::new("--cacert"), self.bundle.as_os_str()])
            .args(flags)
            .arg(url)
            .stdin(Stdio::null())
            .output()
            .context("running curl (package curl)")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        let body = format!("{body}{}", String::from_utf8_lossy(&output.stderr));
        Ok((status.parse().unwrap_or(0), body))
    }
}

/// `openssl s_client` from a place, with a certificate or none, started with pipes.
pub fn s_client(
    place: &Place,
    server: &str,
    identity: Option<&Identity>,
    flags: &[&OsStr],
) -> Result<Child> {
    let mut command = place.command("openssl")?;
    command.args(["s_client", "-connect", server]).args(flags);
    if let Some(identity) = identity {
        command.arg("-cert").arg(&identity.certificate);
        command.arg("-key").arg(&identity.key);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running openssl (package openssl)")
}

/// A `TrustDomain` document of the lab's domain.
pub fn trust_domain(bundle: &Path, revoked: &[&str]) -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: TrustDomain\nmetadata: {{name: {DOMAIN}}}\n\
         spec: {{bundleFile: {}, revoked: [{}]}}\n",
        bundle.display(),
        revoked
            .iter()
            .map(|serial| format!("'{serial}'"))
            .collect::<Vec<_>>()
            .join(", ")
    )
}
