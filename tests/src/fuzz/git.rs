//! What git, gpg and ssh-keygen answer about what others wrote, and the address of a repository.

use enforcer::git::{
    commit_object::CommitObject,
    listing::{self, Entry},
    program,
    remote::{self, Remote},
    signature, signers, webhook,
};

/// `--policies git+…`: what git is given is no option and leads nowhere else, and what is shown
/// is read back as the same.
pub fn remote(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(remote) = text.parse::<Remote>() {
        assert!(remote.url.starts_with(remote.scheme.protocol()));
        assert!(!remote.reference.wanted().starts_with('-'));
        assert!(!remote.path.split('/').any(|part| part == ".."));
        assert_eq!(remote.to_string().parse(), Ok(remote));
    }
}

/// `git ls-tree` and `git cat-file --batch`: no path leads out of the tree.
pub fn listing(input: &[u8]) {
    if let Ok(entries) = listing::policy_files(input) {
        for entry in &entries {
            let mut parts = entry.path.split('/');
            assert!(!parts.any(|part| matches!(part, "" | "." | "..")));
            assert!(remote::is_object_id(&entry.object));
        }
    }
    let entry = Entry {
        path: "a.yaml".to_owned(),
        object: "a".repeat(40),
        size: 3,
    };
    if let Ok(texts) = listing::contents(input, &[entry]) {
        assert_eq!(texts.len(), 1);
    }
}

/// A commit as it is stored: what is signed has no signature in its head, and is the commit
/// where there is none.
pub fn commit(input: &[u8]) {
    if let Ok(commit) = CommitObject::parse(input) {
        let head = commit.payload.split(|byte| *byte == b'\n');
        let mut head = head.take_while(|line| !line.is_empty());
        assert!(!head.any(|line| line.starts_with(b"gpgsig ")));
        if commit.signature.is_none() {
            assert_eq!(commit.payload, input);
        }
    }
}

/// Allowed signers, what gpg and ssh-keygen say, and the signature of a web hook.
pub fn signers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = text.lines().map(signers::is_signer).count();
    if signature::gpg_status(&text).is_ok() {
        assert!(text.contains("[GNUPG:] GOODSIG") && text.contains("[GNUPG:] VALIDSIG"));
    }
    let _ = signature::ssh_refusal(&text, signature::ssh_fingerprint(&text));
    let _ = program::classify(&text);
    assert!(
        program::short_complaint(&text)
            .chars()
            .all(|c| !c.is_control())
    );
    let _ = webhook::signature(input);
}
