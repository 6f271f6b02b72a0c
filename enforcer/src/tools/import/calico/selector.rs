//! Selector expressions of Calico, as in `app == 'web' && !(tier in {'db', 'cache'})`.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::{
    policy::model::{Expression, LabelSelector, Labels, Operator},
    tools::import::{cilium::selector::label_selector, overlap},
};

/// Deepest nesting.
const DEPTH: usize = 64;
/// Most alternatives of an expression.
const ALTERNATIVES: usize = 64;

/// An expression as alternatives of demands: labels that meet any of these are selected. Empty:
/// nobody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The alternatives.
    pub any: Vec<LabelSelector>,
    /// `global()`: what is in no namespace. Then there are no alternatives.
    pub is_global: bool,
}

/// Why an expression cannot be said as alternatives of demands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// It is no expression.
    #[error("is no selector: {expected} is expected at character {at}")]
    Syntax {
        /// What should be there.
        expected: &'static str,
        /// 1-based, in characters.
        at: usize,
    },
    /// It asks for a part of a label's value.
    #[error("selects by a part of a label's value (`{0}`)")]
    PartOfValue(&'static str),
    /// It has too many alternatives, or is nested too deep.
    #[error("is too large: more than {ALTERNATIVES} alternatives, or nested too deep")]
    TooLarge,
    /// `global()` among other demands.
    #[error("has `global()` beside other demands")]
    GlobalAmongOthers,
}

impl Selector {
    /// Everybody.
    pub fn all() -> Self {
        Self {
            any: vec![LabelSelector::default()],
            is_global: false,
        }
    }

    /// Parses an expression. Without any demand it selects everybody.
    ///
    /// # Errors
    /// See [`SelectorError`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Ok(Self::all());
        }
        if let [(_, Token::Word(word)), (_, Token::Open), (_, Token::Close)] = tokens.as_slice()
            && word == "global"
        {
            return Ok(Self {
                any: Vec::new(),
                is_global: true,
            });
        }
        let mut parser = Parser {
            end: text.chars().count() + 1,
            tokens: &tokens,
            depth: 0,
        };
        let tree = parser.either()?;
        if !parser.tokens.is_empty() {
            return Err(parser.expected("the end, `&&` or `||`"));
        }
        let any = tree.alternatives(true)?;
        let any = any.into_iter().map(label_selector);
        // Whoever would have to meet two demands that exclude each other is nobody.
        let nothing = LabelSelector::default();
        let any = any.filter(|demands| overlap::labels(demands, &nothing));
        Ok(Self {
            any: any.collect(),
            is_global: false,
        })
    }

    /// Whether labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.any.iter().any(|demands| demands.matches(labels))
    }

    /// What both select.
    ///
    /// # Errors
    /// [`SelectorError::TooLarge`], and [`SelectorError::GlobalAmongOthers`].
    pub fn and(&self, other: &Self) -> Result<Self, SelectorError> {
        if self.is_global || other.is_global {
            return Err(SelectorError::GlobalAmongOthers);
        }
        let demands = |selector: &Self| -> Vec<_> { selector.any.iter().map(demands).collect() };
        let any = both(&demands(self), &demands(other))?;
        Ok(Self {
            any: any.into_iter().map(label_selector).collect(),
            is_global: false,
        })
    }

    /// What this does not select.
    ///
    /// # Errors
    /// As [`Selector::and`].
    pub fn negated(&self) -> Result<Self, SelectorError> {
        if self.is_global {
            return Err(SelectorError::GlobalAmongOthers);
        }
        let mut any = vec![Vec::new()];
        for alternative in &self.any {
            let denied: Vec<_> = demands(alternative)
                .into_iter()
                .map(|d| vec![not(d)])
                .collect();
            any = both(&any, &denied)?;
        }
        Ok(Self {
            any: any.into_iter().map(label_selector).collect(),
            is_global: false,
        })
    }
}

/// Demands of a selector, one by one.
pub(super) fn demands(selector: &LabelSelector) -> Vec<Expression> {
    let labels = selector.match_labels.iter().map(|(key, value)| Expression {
        key: key.clone(),
        operator: Operator::In,
        values: [value.clone()].into(),
    });
    labels.chain(selector.expressions.iter().cloned()).collect()
}

fn not(demand: Expression) -> Expression {
    let operator = match demand.operator {
        Operator::In => Operator::NotIn,
        Operator::NotIn => Operator::In,
        Operator::Exists => Operator::DoesNotExist,
        Operator::DoesNotExist => Operator::Exists,
    };
    Expression { operator, ..demand }
}

/// Every alternative of one with every alternative of the other.
fn both(
    one: &[Vec<Expression>],
    other: &[Vec<Expression>],
) -> Result<Vec<Vec<Expression>>, SelectorError> {
    if one.len() * other.len() > ALTERNATIVES {
        return Err(SelectorError::TooLarge);
    }
    let pairs = one.iter().flat_map(|one| {
        other
            .iter()
            .map(move |other| [one.as_slice(), other].concat())
    });
    Ok(pairs.collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    And,
    Or,
    Not,
    Equals,
    Differs,
    Open,
    Close,
    OpenSet,
    CloseSet,
    Comma,
}

/// The words of an expression, each with the place at which it begins.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SelectorError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&first) = characters.get(at) {
        let begin = at + 1;
        let second = characters.get(at + 1).copied();
        at += 1;
        let token = match (first, second) {
            (space, _) if space.is_whitespace() => continue,
            ('&', Some('&')) => Token::And,
            ('|', Some('|')) => Token::Or,
            ('=', Some('=')) => Token::Equals,
            ('!', Some('=')) => Token::Differs,
            ('!', _) => Token::Not,
            ('(', _) => Token::Open,
            (')', _) => Token::Close,
            ('{', _) => Token::OpenSet,
            ('}', _) => Token::CloseSet,
            (',', _) => Token::Comma,
            ('\'' | '"', _) => {
                let length = characters[at..].iter().position(|c| *c == first);
                let Some(length) = length else {
                    let expected = "the quote at its end";
                    return Err(SelectorError::Syntax {
                        expected,
                        at: begin,
                    });
                };
                let inner = characters[at..at + length].iter().collect();
                at += length + 1;
                tokens.push((begin, Token::Text(inner)));
                continue;
            }
            _ => {
                let of_word = |c: &char| c.is_ascii_alphanumeric() || "_./-".contains(*c);
                let rest = characters[begin - 1..].iter();
                let length = rest.take_while(|c| of_word(c)).count();
                if length == 0 {
                    let expected = "a label, a value or an operator";
                    return Err(SelectorError::Syntax {
                        expected,
                        at: begin,
                    });
                }
                at = begin - 1 + length;
                let word = characters[begin - 1..at].iter().collect();
                tokens.push((begin, Token::Word(word)));
                continue;
            }
        };
        at += usize::from(matches!(
            token,
            Token::And | Token::Or | Token::Equals | Token::Differs
        ));
        tokens.push((begin, token));
    }
    Ok(tokens)
}

#[derive(Debug)]
enum Tree {
    All,
    Demand(Expression),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    /// Alternatives of demands: those of the tree, or (`holds: false`) of its negation.
    fn alternatives(&self, holds: bool) -> Result<Vec<Vec<Expression>>, SelectorError> {
        match (self, holds) {
            (Self::All, true) => Ok(vec![Vec::new()]),
            (Self::All, false) => Ok(Vec::new()),
            (Self::Demand(demand), true) => Ok(vec![vec![demand.clone()]]),
            (Self::Demand(demand), false) => Ok(vec![vec![not(demand.clone())]]),
            (Self::Not(tree), _) => tree.alternatives(!holds),
            (Self::And(trees), true) | (Self::Or(trees), false) => {
                let mut all = vec![Vec::new()];
                for tree in trees {
                    all = both(&all, &tree.alternatives(holds)?)?;
                }
                Ok(all)
            }
            (Self::Or(trees), true) | (Self::And(trees), false) => {
                let mut all = Vec::new();
                for tree in trees {
                    all.append(&mut tree.alternatives(holds)?);
                    if all.len() > ALTERNATIVES {
                        return Err(SelectorError::TooLarge);
                    }
                }
                Ok(all)
            }
        }
    }
}

struct Parser<'t> {
    tokens: &'t [(usize, Token)],
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn expected(&self, expected: &'static str) -> SelectorError {
        let at = self.tokens.first().map_or(self.end, |(at, _)| *at);
        SelectorError::Syntax { expected, at }
    }

    fn take(&mut self, wanted: &Token) -> bool {
        match self.tokens.split_first() {
            Some(((_, token), rest)) if token == wanted => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn must(&mut self, wanted: &Token, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(self.expected(expected))
    }

    fn word(&mut self, expected: &'static str) -> Result<String, SelectorError> {
        match self.tokens.split_first() {
            Some(((_, Token::Word(word)), rest)) => {
                self.tokens = rest;
                Ok(word.clone())
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn text(&mut self) -> Result<String, SelectorError> {
        match self.tokens.split_first() {
            Some(((_, Token::Text(text)), rest)) => {
                self.tokens = rest;
                Ok(text.clone())
            }
            _ => Err(self.expected("a value in quotes")),
        }
    }

    fn either(&mut self) -> Result<Tree, SelectorError> {
        let mut trees = vec![self.all_of()?];
        while self.take(&Token::Or) {
            trees.push(self.all_of()?);
        }
        Ok(Tree::Or(trees))
    }

    fn all_of(&mut self) -> Result<Tree, SelectorError> {
        let mut trees = vec![self.one()?];
        while self.take(&Token::And) {
            trees.push(self.one()?);
        }
        Ok(Tree::And(trees))
    }

    fn one(&mut self) -> Result<Tree, SelectorError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(SelectorError::TooLarge);
        }
        let tree = self.within();
        self.depth -= 1;
        tree
    }

    fn within(&mut self) -> Result<Tree, SelectorError> {
        if self.take(&Token::Not) {
            return Ok(Tree::Not(Box::new(self.one()?)));
        }
        if self.take(&Token::Open) {
            let tree = self.either()?;
            self.must(&Token::Close, "`)`")?;
            return Ok(tree);
        }
        let word = self.word("a label, `has(`, `all()`, `!` or `(`")?;
        if matches!(word.as_str(), "has" | "all" | "global") && self.take(&Token::Open) {
            let tree = match word.as_str() {
                "has" => {
                    let key = self.word("a label")?;
                    Tree::Demand(Expression {
                        key,
                        operator: Operator::Exists,
                        values: BTreeSet::new(),
                    })
                }
                "all" => Tree::All,
                _ => return Err(SelectorError::GlobalAmongOthers),
            };
            self.must(&Token::Close, "`)`")?;
            return Ok(tree);
        }
        self.demand(word)
    }

    fn demand(&mut self, key: String) -> Result<Tree, SelectorError> {
        const OPERATOR: &str = "`==`, `!=`, `in` or `not in`";
        let (operator, values) = if self.take(&Token::Equals) {
            (Operator::In, [self.text()?].into())
        } else if self.take(&Token::Differs) {
            (Operator::NotIn, [self.text()?].into())
        } else {
            match self.word(OPERATOR)?.as_str() {
                "in" => (Operator::In, self.set()?),
                "not" => {
                    if self.word("`in`")? != "in" {
                        return Err(self.expected("`in`"));
                    }
                    (Operator::NotIn, self.set()?)
                }
                "contains" => return Err(SelectorError::PartOfValue("contains")),
                "starts" => return Err(SelectorError::PartOfValue("starts with")),
                "ends" => return Err(SelectorError::PartOfValue("ends with")),
                _ => return Err(self.expected(OPERATOR)),
            }
        };
        let demand = Expression {
            key,
            operator,
            values,
        };
        // In no set is everybody; in an empty one is nobody.
        Ok(match (demand.operator, demand.values.is_empty()) {
            (Operator::NotIn, true) => Tree::All,
            (Operator::In, true) => Tree::Not(Box::new(Tree::All)),
            _ => Tree::Demand(demand),
        })
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.must(&Token::OpenSet, "`{`")?;
        let mut values = BTreeSet::new();
        if self.take(&Token::CloseSet) {
            return Ok(values);
        }
        loop {
            values.insert(self.text()?);
            if self.take(&Token::CloseSet) {
                return Ok(values);
            }
            self.must(&Token::Comma, "`,` or `}`")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn expressions_select_whom_calico_says() {
        let (web, db, bare) = (
            labels(&[("app", "web"), ("a.b/c-d", "1")]),
            labels(&[("app", "db"), ("tier", "back")]),
            labels(&[]),
        );
        for (text, expected) in [
            ("", [true, true, true]),
            ("all()", [true, true, true]),
            ("!all()", [false, false, false]),
            ("app == 'web'", [true, false, false]),
            ("app != \"web\"", [false, true, true]),
            ("has(app)", [true, true, false]),
            ("! has(app)", [false, false, true]),
            ("app in {'web', 'x'}", [true, false, false]),
            ("app not in {'web','x'}", [false, true, true]),
            ("app in {}", [false, false, false]),
            ("a.b/c-d == '1'", [true, false, false]),
            (
                "app == 'web' || app == 'db' && tier == 'x'",
                [true, false, false],
            ),
            (
                "(app == 'web' || app == 'db') && has(tier)",
                [false, true, false],
            ),
            ("!(app == 'web' || has(tier))", [false, false, true]),
            ("!(app == 'web' && has(tier))", [true, true, true]),
            ("has == 'x' || all == 'y'", [false, false, false]),
            ("app == 'web' && app == 'db'", [false, false, false]),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let found = [&web, &db, &bare].map(|labels| selector.matches(labels));
            assert_eq!(found, expected, "{text}: {selector:?}");
            let negated = selector.negated().unwrap();
            let found = [&web, &db, &bare].map(|labels| !negated.matches(labels));
            assert_eq!(found, expected, "not {text}: {negated:?}");
        }
        assert!(Selector::parse("global()").unwrap().is_global);
    }

    #[test]
    fn what_is_no_expression_says_where() {
        for (text, at) in [
            ("app =", 5),
            ("app == web", 8),
            ("app == 'web", 8),
            ("(app == 'web'", 14),
            ("app == 'web' app", 14),
            ("has(app", 8),
            ("app in {'a' 'b'}", 13),
            ("&&", 1),
            ("app not 'a'", 9),
        ] {
            match Selector::parse(text) {
                Err(SelectorError::Syntax { at: found, .. }) => assert_eq!(found, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let part = Err(SelectorError::PartOfValue("starts with"));
        assert_eq!(Selector::parse("app starts with 'w'"), part);
        assert_eq!(
            Selector::parse("global() || has(a)"),
            Err(SelectorError::GlobalAmongOthers)
        );
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let deep = format!("{}has(a){}", "(".repeat(1000), ")".repeat(1000));
        assert_eq!(Selector::parse(&deep), Err(SelectorError::TooLarge));
        let wide = vec!["(a == '1' || b == '2')"; 30].join(" && ");
        assert_eq!(Selector::parse(&wide), Err(SelectorError::TooLarge));
        assert_eq!(
            Selector::parse(&"!".repeat(100_000)),
            Err(SelectorError::TooLarge)
        );
    }
}
