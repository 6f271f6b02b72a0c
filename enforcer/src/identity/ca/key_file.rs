//! Private keys in files: PKCS#8 in PEM, mode 0600, and encrypted where there is a passphrase
//! (PBES2 with scrypt and AES-256, RFC 8018; `openssl pkey` reads it).

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::CaError;
use crate::state::atomic_file;

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const PLAIN: &str = "PRIVATE KEY";

/// What a key is encrypted with.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The first line of a file that only its owner reads.
    pub fn read(path: &Path) -> Result<Self, CaError> {
        demand_private(path)?;
        let bytes = Zeroizing::new(fs::read(path).map_err(CaError::io("read", path))?);
        let line = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(CaError::EmptyPassphrase(path.to_owned()));
        }
        Ok(Self(Zeroizing::new(line.to_vec())))
    }
}

/// Writes a key.
pub(super) fn write(
    path: &Path,
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<(), CaError> {
    let damaged = |error: &dyn std::fmt::Display| CaError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let der = key.serialized_der();
    let pem = match passphrase {
        Some(Passphrase(secret)) => {
            let plain = PrivateKeyInfoRef::try_from(der).map_err(|e| damaged(&e))?;
            let encrypted = plain.encrypt(secret.as_slice()).map_err(|e| damaged(&e))?;
            encrypted.to_pem(ENCRYPTED, pkcs8::LineEnding::LF)
        }
        None => SecretDocument::try_from(der)
            .and_then(|document| document.to_pem(PLAIN, pkcs8::LineEnding::LF)),
    };
    let pem = pem.map_err(|e| damaged(&e))?;
    atomic_file::replace(path, pem.as_bytes()).map_err(CaError::io("write", path))
}

/// Reads a key.
pub(super) fn read(path: &Path, passphrase: Option<&Passphrase>) -> Result<KeyPair, CaError> {
    demand_private(path)?;
    let damaged = |error: &dyn std::fmt::Display| CaError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let pem = fs::read_to_string(path).map_err(CaError::io("read", path))?;
    let pem = Zeroizing::new(pem);
    let (label, document) = SecretDocument::from_pem(&pem).map_err(|e| damaged(&e))?;
    let document = match (label, passphrase) {
        (ENCRYPTED, None) => return Err(CaError::Encrypted(path.to_owned())),
        (ENCRYPTED, Some(Passphrase(secret))) => {
            let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
            let encrypted = encrypted.map_err(|e| damaged(&e))?;
            encrypted
                .decrypt(secret.as_slice())
                .map_err(|_| CaError::Passphrase(path.to_owned()))?
        }
        _ => document,
    };
    let der = PrivatePkcs8KeyDer::from(document.as_bytes());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|e| damaged(&e))
}

/// Refuses a file that others than its owner can read.
fn demand_private(path: &Path) -> Result<(), CaError> {
    let metadata = fs::metadata(path).map_err(CaError::io("read", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode.trailing_zeros() >= 6 {
        // Nothing for its group, nothing for others.
        return Ok(());
    }
    Err(CaError::Exposed {
        path: path.to_owned(),
        mode,
    })
}
