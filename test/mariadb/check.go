package mariadb

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Tables are the tables of the database.
func (s *Server) Tables(ctx context.Context) ([]string, error) {
	out, err := s.Query(ctx, "SELECT table_name FROM information_schema.tables WHERE table_schema='"+Database+"' ORDER BY 1")
	return strings.Fields(out), err
}

// CheckTables checks each table of the database with all that CHECK TABLE
// EXTENDED looks at. The error names the first that is not clean.
func (s *Server) CheckTables(ctx context.Context) error {
	tables, err := s.Tables(ctx)
	if err != nil {
		return err
	}
	if len(tables) == 0 {
		return fmt.Errorf("check tables: %s has none", Database)
	}
	for _, t := range tables {
		out, err := s.Query(ctx, fmt.Sprintf("CHECK TABLE %s.%s EXTENDED", Database, t))
		if err != nil {
			return err
		}
		// Table, operation, kind of message, text; "status OK" alone is clean.
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 1 || !strings.HasSuffix(lines[0], "\tcheck\tstatus\tOK") {
			return fmt.Errorf("check table %s: %s", t, strings.TrimSpace(out))
		}
	}
	return nil
}

// Rows are the rows of each table of the database, counted one by one.
func (s *Server) Rows(ctx context.Context) (map[string]int64, error) {
	tables, err := s.Tables(ctx)
	if err != nil {
		return nil, err
	}
	rows := map[string]int64{}
	for _, t := range tables {
		n, err := s.number(ctx, fmt.Sprintf("SELECT COUNT(*) FROM %s.%s", Database, t))
		if err != nil {
			return nil, err
		}
		rows[t] = n
	}
	return rows, nil
}

func (s *Server) number(ctx context.Context, query string) (int64, error) {
	out, err := s.Query(ctx, query)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	return n, nil
}
