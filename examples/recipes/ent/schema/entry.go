// Package schema is what ent's code is generated from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
)

// Entry is a row of the table entry.
type Entry struct{ ent.Schema }

// Annotations names the table.
func (Entry) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "entry"}}
}

// Fields are the columns, but for the id.
func (Entry) Fields() []ent.Field {
	return []ent.Field{field.String("book"), field.String("op"), field.Int64("amount")}
}
