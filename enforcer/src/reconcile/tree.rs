//! Policy trees as the loop handles them: read, and kept as copies.

use std::{path::Path, sync::Arc};

use crate::{
    api::{
        problem::{Problem, ProblemCode},
        status::PolicySource,
    },
    policy::{Loader, PolicyErrors, SourceFile, model::ResolvedPolicy},
    state::{StateDir, StateError},
};

/// A tree that was read without errors.
#[derive(Clone, Debug)]
pub struct LoadedTree {
    /// What it says.
    pub policy: Arc<ResolvedPolicy>,
    /// Where it was read from.
    pub from: PolicySource,
    /// Its files, to make the copy from.
    files: Arc<[Arc<SourceFile>]>,
}

impl LoadedTree {
    /// Reads a tree. Blocks. `loader` makes the same tree cheaper the next time.
    pub fn read(
        loader: &mut Loader,
        path: &Path,
        from: PolicySource,
    ) -> Result<Self, PolicyErrors> {
        let (policy, files) = loader.load(path)?;
        Ok(Self {
            policy: Arc::new(policy),
            from,
            files: files.into(),
        })
    }

    /// Reads the copy of the tree with this digest from the state directory. Blocks.
    pub fn read_copy(state: &StateDir, digest: &str) -> Result<Self, PolicyErrors> {
        let mut tree = Self::read(
            &mut Loader::default(),
            &state.tree(digest),
            PolicySource::LastGood,
        )?;
        // A byte order mark is not kept in the copy: it is the same tree all the same.
        digest.clone_into(&mut Arc::make_mut(&mut tree.policy).digest);
        Ok(tree)
    }

    /// The tree that says nothing: nothing is enforced.
    pub fn nothing() -> Self {
        Self {
            policy: Arc::default(),
            from: PolicySource::None,
            files: Arc::default(),
        }
    }

    /// Digest over its files; empty for [`LoadedTree::nothing`].
    pub fn digest(&self) -> &str {
        &self.policy.digest
    }

    /// Keeps a copy in the state directory. Blocks.
    pub fn store(&self, state: &StateDir) -> Result<(), StateError> {
        if self.digest().is_empty() {
            return Ok(());
        }
        let files = self.files.iter().map(|f| (&*f.name, f.text.as_str()));
        state.store_tree(self.digest(), self.policy.commit.as_deref(), files)
    }
}

/// The errors of a tree, as the control socket shows them.
pub fn problem(path: &Path, errors: &PolicyErrors) -> Problem {
    let diagnostics = match serde_json::to_value(errors) {
        Ok(serde_json::Value::Array(list)) => list,
        // Another shape than a list is still better shown than left out.
        Ok(other) => vec![other],
        Err(_) => Vec::new(),
    };
    Problem {
        code: ProblemCode::BadPolicy,
        message: format!(
            "the policy tree {} has errors and was not put in force: {errors}",
            path.display()
        ),
        diagnostics,
    }
}
