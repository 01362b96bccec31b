// `kube validate < manifests.yaml`: what an API server would say about the shape of manifests, without one.
//
// Each document is decoded strictly (an unknown, repeated or mistyped field is an error). A CustomResourceDefinition is
// also put through the API server's own validation: structural schema, defaults, and the cost of its CEL rules.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func validate(input io.Reader) int {
	if err := apiextensionsv1.AddToScheme(scheme.Scheme); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	good, bad := 0, 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && onlyComments(document) {
			continue
		}
		if err == nil {
			err = check(decoder, document)
		}
		if err != nil {
			bad++
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		good++
	}
	fmt.Printf("%d objects fit their schema, %d do not\n", good, bad)
	if bad > 0 || good == 0 {
		return 1
	}
	return 0
}

func onlyComments(document []byte) bool {
	for _, line := range bytes.Split(document, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func check(decoder runtime.Decoder, document []byte) error {
	object, kind, err := decoder.Decode(document, nil, nil)
	if err != nil {
		return fmt.Errorf("%w\n  in: %.120q", err, document)
	}
	name := "?"
	if accessor, err := meta.Accessor(object); err == nil {
		name = accessor.GetName()
	}
	crd, ok := object.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(crd)
	var internal apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, &internal, nil); err != nil {
		return err
	}
	// An API server fills these in before it validates.
	internal.Status.StoredVersions = []string{crd.Spec.Versions[0].Name}
	if faults := validation.ValidateCustomResourceDefinition(context.Background(), &internal); len(faults) > 0 {
		return fmt.Errorf("%s %s: %w", kind.Kind, name, faults.ToAggregate())
	}
	return nil
}
