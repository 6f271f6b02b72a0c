//! Fingerprints: what an identity is called on every node.

use sha2::{Digest, Sha256};

use super::image::IdentitySubject;

/// The fingerprint of an identity: the first 64 bits of the SHA-256 over what policy sees of a
/// workload, without the names of its ports. Equal labels give equal fingerprints on every node;
/// that two different ones do, by chance, is as likely as one in 2^32 among 2^16 identities.
pub fn fingerprint(subject: &IdentitySubject) -> u64 {
    let mut hash = Sha256::new();
    // Each text with its length, so that no two lists of texts are the same bytes.
    let mut text = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    match subject {
        IdentitySubject::Host => text("host"),
        IdentitySubject::World => text("world"),
        IdentitySubject::RemoteHost { labels, .. } => {
            text("remote-host");
            for (key, value) in labels {
                text(key);
                text(value);
            }
        }
        IdentitySubject::Workload {
            namespace,
            labels,
            spiffe_id,
            service_account,
            unit,
            ports: _,
        } => {
            text("workload");
            text(namespace);
            // Absence is not the same as an empty text.
            for part in [spiffe_id, service_account, unit] {
                text(if part.is_some() { "some" } else { "none" });
                text(part.as_deref().unwrap_or_default());
            }
            for (key, value) in labels {
                text(key);
                text(value);
            }
        }
    }
    let digest: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::model::Labels;

    fn workload(labels: &[(&str, &str)], spiffe_id: Option<&str>) -> IdentitySubject {
        let labels = labels.iter();
        IdentitySubject::Workload {
            namespace: "shop".to_owned(),
            labels: labels
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect::<Labels>(),
            spiffe_id: spiffe_id.map(str::to_owned),
            service_account: None,
            unit: None,
            ports: BTreeSet::new(),
        }
    }

    #[test]
    fn they_are_the_same_everywhere_and_differ_where_labels_do() {
        let web = fingerprint(&workload(&[("app", "web")], None));
        // Written down: nodes of different versions must agree.
        assert_eq!(web, 0x84ae_7bc2_eb79_205e);
        let others = [
            workload(&[("app", "we"), ("b", "")], None),
            workload(&[("appw", "eb")], None),
            workload(&[("app", "web")], Some("")),
            IdentitySubject::Host,
        ];
        for other in others {
            assert_ne!(fingerprint(&other), web);
        }
    }
}
